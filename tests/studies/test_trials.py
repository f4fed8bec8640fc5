"""A study's trials tried again from Python, as `hpo retry` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.studies import claimed, claims_of, simulated_study

from hpo.claims.claims import End
from hpo.errors import StudyClosedError, UsageError
from hpo.studies.trials import retry_trial, trainer_defaults, trial_rows

if TYPE_CHECKING:
    from sqlalchemy import Engine


def test_retry_queues_the_parameters_of_an_ended_trial_within_the_budget(engine: Engine) -> None:
    """A new trial; one that runs or waits, or that there is not, cannot be tried again."""
    study = simulated_study(engine, trials=2)
    claims = claims_of(engine, study)
    first = claimed(claims)
    with pytest.raises(UsageError, match="trial 0 is running; only an ended one"):
        retry_trial(engine, study, 0)
    claims.tell(first, End.FAIL)
    assert retry_trial(engine, study, 0) == 1
    with engine.connect() as connection:
        failed, waiting = trial_rows(connection, study)
    assert (failed.state, waiting.state) == ("failed", "waiting")
    assert waiting.params == failed.params
    with pytest.raises(UsageError, match="trial 1 is waiting; only an ended one"):
        retry_trial(engine, study, 1)
    with pytest.raises(UsageError, match="has no trial 9"):
        retry_trial(engine, study, 9)
    with pytest.raises(StudyClosedError, match="the budget of 2 trials has no room"):
        retry_trial(engine, study, 0)


def test_trainer_defaults_yield_to_what_the_study_fixes(engine: Engine) -> None:
    """An enqueued trial that leaves a parameter out trains with the study's value."""
    defaults = trainer_defaults(simulated_study(engine, train={"epoch_s": 0.25}))
    assert defaults["epoch_s"] == 0.25
    assert {"x", "y", "kind", "depth"} <= set(defaults)
