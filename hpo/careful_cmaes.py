"""Optuna's CMA-ES sampler, which reads its own stored state and runs nothing else in its place."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from optuna.samplers import CmaEsSampler

from hpo.errors import MismatchError
from hpo.host.serialization import load_plain

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_CLASSES = (("cmaes._cma", "CMA"),)  # that of a sampler with neither margin nor separable matrix


class CarefulCmaEsSampler(CmaEsSampler):
    """Keeps Optuna's promise: the state is a trial's attribute `cma:optimizer`, a pickle."""

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
