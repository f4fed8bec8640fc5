"""Which study is meant, and steering one, on real PostgreSQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sqlalchemy import text
from support.studies import simulated_study

from hpo.claims.claims import Claim, Claims, End
from hpo.errors import StudyClosedError, UnknownStudyError, UsageError
from hpo.storage.postgres.engine import Database
from hpo.studies.spec import Choice
from hpo.studies.status import status
from hpo.studies.store import choose_study, enqueue, extend, list_studies, load_study, set_state
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.studies.store import Study

POINT = {"x": 0.9, "y": 0.01, "kind": "a"}


def run_one(engine: Engine, study: Study) -> None:
    """One complete trial."""
    claims = Claims(Database(engine, patience_s=30.0), study, 1, lease_s=30.0)
    claim = claims.claim()
    assert isinstance(claim, Claim)
    claims.report(claim, Epoch(1, {"mAP50": 0.5}))
    claims.tell(claim, End.COMPLETE)


def test_with_no_study_the_user_is_told_how_to_make_one(engine: Engine) -> None:
    """Reading and writing commands say the same."""
    for writing in (True, False):
        with pytest.raises(UnknownStudyError, match="there is no study") as caught:
            choose_study(engine, None, writing=writing)
        assert "hpo create-study" in caught.value.hint


def test_a_named_study_is_taken_or_refused_with_the_nearest(engine: Engine) -> None:
    """A name is never guessed; the nearest one is offered."""
    simulated_study(engine)
    assert choose_study(engine, "simulated-test", writing=True) == ("simulated-test", "")
    with pytest.raises(
        UnknownStudyError, match=r"'simulated-tset' \(did you mean 'simulated-test'"
    ):
        choose_study(engine, "simulated-tset", writing=False)


def test_the_only_open_study_is_the_default(engine: Engine) -> None:
    """Finished and stopped ones do not count; nothing needs to be said."""
    for name in ("finished", "stopped", "open"):
        study = simulated_study(engine, study=name, trials=1)
        if name == "finished":
            run_one(engine, study)
        if name == "stopped":
            set_state(engine, study, "stopped")
    assert [item.state for item in list_studies(engine)] == ["open", "stopped", "finished"]
    for writing in (True, False):
        assert choose_study(engine, None, writing=writing) == ("open", "")


def test_of_several_open_studies_reading_takes_the_newest_and_writing_refuses(
    engine: Engine,
) -> None:
    """Reading says which it took; writing lists them."""
    for name in ("one", "two"):
        simulated_study(engine, study=name)
    name, remark = choose_study(engine, None, writing=False)
    assert name == "two"
    assert "two" in remark
    with pytest.raises(UnknownStudyError, match="several studies are open: two, one") as caught:
        choose_study(engine, None, writing=True)
    assert "--study" in caught.value.hint


def test_with_no_open_study_a_single_one_is_meant(engine: Engine) -> None:
    """`hpo extend` after the end needs no name; among several it does."""
    run_one(engine, simulated_study(engine, study="one", trials=1))
    assert choose_study(engine, None, writing=True) == ("one", "")
    run_one(engine, simulated_study(engine, study="two", trials=1))
    assert choose_study(engine, None, writing=False)[0] == "two"
    with pytest.raises(UnknownStudyError, match="no study is open, and there are several"):
        choose_study(engine, None, writing=True)


# Steering


def test_an_enqueued_trial_needs_room_in_the_budget(engine: Engine) -> None:
    """Claimed and waiting trials together never overrun it; the error says how to raise it."""
    study = simulated_study(engine, trials=2)
    run_one(engine, study)
    assert enqueue(engine, study, {"x": 0.9}, {"y": 0.01, "kind": "a"}) == 1
    with pytest.raises(StudyClosedError, match="1 claimed, 1 waiting") as caught:
        enqueue(engine, study, POINT, {})
    assert "hpo extend --study simulated-test --trials 3" in caught.value.hint


def test_an_enqueued_trial_that_could_never_start_is_refused(engine: Engine) -> None:
    """After budget.timeout no trial starts any more."""
    study = simulated_study(engine, trials=5)
    run_one(engine, study)
    with engine.begin() as connection:
        connection.execute(text("update hpo.study set timeout_s = 0.001"))
    with pytest.raises(StudyClosedError, match="is over"):
        enqueue(engine, study, POINT, {})


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"z": 1}, "z: the search space has no such parameter"),
        ({"x": 7}, "x: 7.0 lies outside"),
        ({"kind": "a", "depth": 3}, "depth: exists only where kind is b"),
        ({"x": "much"}, "x: 'much' is no number"),
    ],
)
def test_an_impossible_trial_is_not_enqueued(
    engine: Engine, params: dict[str, Any], words: str
) -> None:
    """Unknown parameters and values out of range write nothing."""
    study = simulated_study(engine)
    with pytest.raises(UsageError, match=words):
        enqueue(engine, study, params, {"x": 0.2, "y": 0.1, "kind": "a", "depth": 2})
    with engine.connect() as connection:
        assert connection.scalar(text("select count(*) from trials")) == 0


def test_a_budget_is_only_raised(engine: Engine) -> None:
    """`extend` takes the new total, and refuses one that is not above the present."""
    study = simulated_study(engine, trials=3)
    for trials in (1, 3):
        with pytest.raises(UsageError, match=f"--trials {trials} is not above the present budget"):
            extend(engine, study, trials)
    extend(engine, study, 4)
    assert load_study(engine, study.name).trials == 4
    grid = simulated_study(engine, study="grid", sampler=Choice("grid", {}))
    with pytest.raises(UsageError, match="a grid has as many points as it has"):
        extend(engine, grid, 100)


def test_steering_a_study_that_was_deleted_says_so(engine: Engine, database_url: str) -> None:
    """Between choosing and writing it may be deleted outside this service."""
    study = simulated_study(engine)
    optuna.delete_study(study_name=study.name, storage=database_url)
    for act in (
        lambda: enqueue(engine, study, POINT, {}),
        lambda: extend(engine, study, 99),
        lambda: set_state(engine, study, "stopped"),
        lambda: status(engine, study),
    ):
        with pytest.raises(UnknownStudyError, match="the study 'simulated-test' was deleted"):
            act()


def test_status_is_plain_json(engine: Engine) -> None:
    """The document holds what DESIGN promises, and nothing that JSON cannot."""
    study = simulated_study(engine, trials=3)
    run_one(engine, study)
    document = status(engine, study)
    assert json.loads(json.dumps(document)) == document
    assert document["state"] == "open"
    assert document["simulated"] is True
    assert document["budget"] == {"trials": 3, "claimed": 1, "epochs": 3}
    assert document["counts"] == {
        "complete": 1, "pruned": 0, "failed": 0, "running": 0, "waiting": 0,
    }  # fmt: skip
    assert document["best"]["value"] == 0.5
    assert document["champion"] is None
