"""Keep a study's finished trials, and make snapshots of all of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial
    from sqlalchemy import Row

    from hpo.claims.snapshot import Snapshot

_SPECIAL = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}


class History:
    """One study's trials as far as they were read.

    Finished trials never change and are read once. One instance serves one thread.

    Attributes:
        study_id: Optuna's id.
    """

    def __init__(self, study_id: int, name: str, direction: str) -> None:
        self.study_id, self._name, self._direction = study_id, name, direction
        self._finished: dict[int, FrozenTrial] = {}

    @property
    def known(self) -> list[int]:
        """Ids of the trials that need not be read again."""
        return list(self._finished)

    def snapshot(self, rows: Sequence[Row[Any]], attrs: Sequence[Row[Any]]) -> Snapshot:
        """All trials at this moment, by number.

        Args:
            rows: of the statement `history`: all trials but those `known`.
            attrs: of the statement `study_attrs`.
        """
        from optuna.study import StudyDirection

        from hpo.claims.snapshot import Snapshot

        live = []
        for row in rows:
            trial = _frozen(row)
            if trial.state.is_finished():
                self._finished[row.trial_id] = trial
            else:
                live.append(trial)
        trials = sorted([*self._finished.values(), *live], key=lambda trial: trial.number)
        study_attrs = {row.key: json.loads(row.value_json) for row in attrs}
        direction = StudyDirection[self._direction.upper()]
        return Snapshot(self._name, direction, trials, study_attrs)


def _frozen(row: Row[Any]) -> FrozenTrial:
    from optuna.distributions import json_to_distribution
    from optuna.trial import FrozenTrial, TrialState

    distributions = {name: json_to_distribution(pair[1]) for name, pair in row.params.items()}
    params = {
        name: distributions[name].to_external_repr(pair[0]) for name, pair in row.params.items()
    }
    steps = {int(step): _number(*pair) for step, pair in row.steps.items()}
    return FrozenTrial(
        number=row.number,
        state=TrialState[row.state],
        value=None if row.value is None else _number(*row.value),
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs={key: json.loads(text) for key, text in row.system_attrs.items()},
        intermediate_values=dict(sorted(steps.items())),
        trial_id=row.trial_id,
    )


def _number(value: float | None, kind: str) -> float:
    return _SPECIAL[kind] if value is None else float(value)


def _local(moment: datetime | None) -> datetime | None:
    """Optuna 5 stores naive UTC and hands out naive local time."""
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
