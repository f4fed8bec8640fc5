"""Suggest a trial's parameters and judge its epochs by the study's sampler and pruner."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.studies.samplers import make_pruner, make_sampler

if TYPE_CHECKING:
    from hpo.claims.snapshot import Snapshot
    from hpo.studies.spec import StudySpec


@dataclass(frozen=True)
class Suggestion:
    """A trial's parameters.

    Attributes:
        params: every active parameter, fixed ones included.
        stored: name -> [internal value, distribution as JSON text], those not stored yet.
        attrs: key -> JSON text of the system attributes to store with them.
    """

    params: dict[str, Any]
    stored: dict[str, list[Any]]
    attrs: dict[str, str]


def suggest(spec: StudySpec, snapshot: Snapshot, trial_id: int) -> Suggestion:
    """The trial's parameters: those it has, those it was enqueued with, else the sampler's."""
    import optuna
    from optuna.distributions import distribution_to_json
    from optuna.trial import Trial

    frozen = snapshot.get_trial(trial_id)
    earlier = [trial for trial in snapshot.get_all_trials(0) if trial.number < frozen.number]
    rank = sum("fixed_params" not in trial.system_attrs for trial in earlier)
    study = optuna.Study(
        spec.study, snapshot, make_sampler(spec, frozen.number, rank), make_pruner(spec)
    )
    # Hyperband learns its brackets at its first question; asked now, sampling sees the brackets
    # whether or not this worker has pruned before, so all workers suggest the same.
    study.pruner.prune(study, _unreported(frozen.number, trial_id))
    params = spec.space.suggest(Trial(study, trial_id))
    stored = {
        name: [value, distribution_to_json(distribution)]
        for name, (value, distribution) in snapshot.new_params.items()
    }
    return Suggestion(params, stored, _texts(snapshot.new_attrs))


def should_prune(spec: StudySpec, snapshot: Snapshot, trial_id: int) -> tuple[bool, dict[str, str]]:
    """(whether the pruner ends this trial now, the rungs to store with it as JSON texts)."""
    import optuna

    study = optuna.Study(spec.study, snapshot, optuna.samplers.RandomSampler(), make_pruner(spec))
    with warnings.catch_warnings():
        # A trial, or an epoch of all trials, with no finite value: Optuna's pruners ask NumPy for
        # the best of nothing and handle the NaN that comes back.
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        pruned = study.pruner.prune(study, snapshot.get_trial(trial_id))
    return pruned, _texts(snapshot.new_attrs)


def _unreported(number: int, trial_id: int) -> Any:
    from optuna.trial import FrozenTrial, TrialState

    return FrozenTrial(
        number=number, state=TrialState.RUNNING, value=None, datetime_start=None,
        datetime_complete=None, params={}, distributions={}, user_attrs={}, system_attrs={},
        intermediate_values={}, trial_id=trial_id,
    )  # fmt: skip


def _texts(attrs: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in attrs.items()}
