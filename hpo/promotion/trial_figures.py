"""What a study's ended trials came to, for the record of a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.storage.postgres.queries import query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from hpo.studies.store import Study


@dataclass(frozen=True)
class TrialFigures:
    """One ended trial.

    Attributes:
        state: `COMPLETE`, `PRUNED` or `FAIL`.
        value: the objective's, of the best epoch; None where there is none.
        metrics: every figure of the best epoch.
        params: its parameters.
        train_s: seconds of training and validation, of all its epochs.
    """

    number: int
    state: str
    value: float | None
    best_epoch: int | None
    metrics: dict[str, float | None]
    params: dict[str, Any]
    train_s: float


def figures(connection: Connection, study: Study, params: dict[int, Any]) -> list[TrialFigures]:
    """Every ended trial of a study, by number; `params` are the trials' parameters by number."""
    rows = connection.execute(query("promotion_figures"), {"study_id": study.study_id})
    return [
        TrialFigures(
            row.number, row.state, None if row.state == "FAIL" else row.value, row.best_epoch,
            row.metrics or {}, params.get(row.number, {}), row.train_s or 0.0,
        )
        for row in rows
    ]  # fmt: skip


def ranked(study: Study, trials: Sequence[TrialFigures]) -> list[TrialFigures]:
    """Those with a value: complete ones first, as only they compete; the best first in each."""
    sign = -1 if study.spec.objective.direction == "maximize" else 1
    return sorted(
        (one for one in trials if one.value is not None),
        key=lambda one: (one.state != "COMPLETE", sign * (one.value or 0.0), one.number),
    )


def best_baseline(study: Study, trials: Sequence[TrialFigures]) -> TrialFigures | None:
    """The best of the trials that the study was created with; None when none has a value."""
    ran = [one for one in trials if one.number < len(study.spec.baselines)]
    return next(iter(ranked(study, ran)), None)
