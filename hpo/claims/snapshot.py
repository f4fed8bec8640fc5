"""Show a study's trials to Optuna's samplers and pruners as a storage in memory.

Optuna's own storage commits each write alone, so its `ask`, `suggest` and `report` cannot be
fenced. Samplers and pruners therefore run on this snapshot, and what they set (parameters, rungs,
CMA-ES state) is collected for one fenced statement. Not thread-safe: one snapshot a call.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection
    from optuna.study._frozen import FrozenStudy
    from optuna.trial import FrozenTrial, TrialState

STUDY_ID = 0  # the only study that a snapshot holds


class Snapshot(BaseStorage):
    """Trials of one study at one moment, and what was set on one of them since.

    Attributes:
        new_params: name -> (internal value, distribution) set on trials.
        new_attrs: system attributes set on the trial, key -> JSON-able value.
    """

    def __init__(
        self,
        name: str,
        direction: StudyDirection,
        trials: Sequence[FrozenTrial],
        study_attrs: dict[str, Any],
    ) -> None:
        self._name, self._direction = name, direction
        self._by_id = {trial._trial_id: trial for trial in trials}  # noqa: SLF001 - a storage gives trials their ids
        self._study_attrs = dict(study_attrs)
        self.new_params: dict[str, tuple[float, BaseDistribution]] = {}
        self.new_attrs: dict[str, Any] = {}

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name != self._name:
            raise KeyError(study_name)
        return STUDY_ID

    def get_study_name_from_id(self, study_id: int) -> str:
        del study_id
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        del study_id
        return [self._direction]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        del study_id
        return {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        del study_id
        return self._study_attrs

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._by_id[trial_id]

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        del study_id, deepcopy  # readers of a snapshot change nothing in it
        trials = self._by_id.values()  # in the order of their numbers, as they were given
        return [trial for trial in trials if states is None or trial.state in states]

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        trial = self._copied(trial_id)
        value = distribution.to_external_repr(param_value_internal)
        trial.params = trial.params | {param_name: value}
        trial.distributions = trial.distributions | {param_name: distribution}
        self.new_params[param_name] = (param_value_internal, distribution)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._copied(trial_id)
        trial.system_attrs = trial.system_attrs | {key: value}
        self.new_attrs[key] = value

    def _copied(self, trial_id: int) -> FrozenTrial:
        """A copy in the trial's place: lists handed out before do not see what is set after.

        Optuna's storages do the same, and successive halving counts on it: it would count a
        trial's own value twice.
        """
        trial = self._by_id[trial_id] = copy.copy(self._by_id[trial_id])
        return trial

    # What no sampler or pruner calls, and a snapshot cannot do.

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        raise self._read_only()

    def delete_study(self, study_id: int) -> None:
        raise self._read_only()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        raise self._read_only()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        raise self._read_only()

    def get_all_studies(self) -> list[FrozenStudy]:
        raise self._read_only()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        raise self._read_only()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        raise self._read_only()

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        raise self._read_only()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        raise self._read_only()

    @staticmethod
    def _read_only() -> TypeError:
        return TypeError("a snapshot takes only a trial's parameters and system attributes")
