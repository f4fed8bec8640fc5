"""Adapt Optuna's grid, QMC and CMA-ES samplers to many workers.

Grid and QMC count in the storage which point comes next, so two workers that ask at once would get
the same one. Here the point follows from the trial's rank (how many trials before it were sampled
rather than enqueued), which is fixed when the trial is claimed: every point is used exactly once.

CMA-ES keeps its state as a pickle in PostgreSQL. Here it is read without running what it holds.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import CmaEsSampler, GridSampler, QMCSampler

from hpo.errors import MismatchError
from hpo.host.serialization import load_plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class RankedGridSampler(GridSampler):
    """Optuna's grid, shuffled by the seed; the trial of rank r takes point r."""

    def __init__(self, grid: Mapping[str, Sequence[Any]], seed: int, rank: int) -> None:
        super().__init__(grid, seed=seed)
        self._rank = rank % len(self._all_grids)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if "grid_id" in trial.system_attrs or "fixed_params" in trial.system_attrs:
            return
        storage, trial_id = study._storage, trial._trial_id  # noqa: SLF001 - as Optuna's own sampler does
        storage.set_trial_system_attr(trial_id, "search_space", self._search_space)
        storage.set_trial_system_attr(trial_id, "grid_id", self._rank)


class RankedQMCSampler(QMCSampler):
    """Optuna's QMC sequence over a whole unconditional space; rank r takes element r."""

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        rank: int,
        *,
        qmc_type: str,
        scramble: bool,
        seed: int,
    ) -> None:
        with warnings.catch_warnings():
            # "The interface can change": the versions in constraints.txt and the tests pin it.
            warnings.filterwarnings("ignore", "QMCSampler is exp", ExperimentalWarning)
            super().__init__(qmc_type=qmc_type, scramble=scramble, seed=seed)
        self._space = space
        self._rank = rank

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        # Optuna's takes the first trial's parameters and samples the first one at random.
        del study, trial
        return self._space

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        del study, search_space
        return self._rank


_CLASSES = (("cmaes._cma", "CMA"),)  # that of a sampler with neither margin nor separable matrix


class CarefulCmaEsSampler(CmaEsSampler):
    """Optuna's CMA-ES, whose pickled state is read as plain values without running code."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            parts = {
                key: value
                for key, value in trial.system_attrs.items()
                if key.startswith(self._attr_key_optimizer)
            }
            if parts:
                data = bytes.fromhex(self._concat_optimizer_attrs(parts))
                return _state(data, trial.number)
        return None


def _state(data: bytes, number: int) -> Any:
    try:
        return load_plain(io.BytesIO(data), _CLASSES)
    except Exception as error:
        # Damaged bytes raise anything
        raise MismatchError(
            f"the state of CMA-ES that trial {number} holds cannot be used: {error}",
            hint="Another program wrote it, or another version of cmaes: make a new study.",
        ) from error
