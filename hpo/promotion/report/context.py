"""Gather everything that the record of a decision is written from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.studies.trials import trial_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.Image import Image

    from hpo.evaluation.detections import Detections
    from hpo.evaluation.record import EvaluationRecord
    from hpo.promotion.decision import Decision
    from hpo.promotion.evidence import Evidence, FinalistResult
    from hpo.studies.store import Study

    Pictures = Callable[[str], Image | None]
    from sqlalchemy import Connection


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """One decision with all that can be shown of it.

    Attributes:
        study: whose trial was decided about.
        decision: what was decided; its evidence may lack anything: decisions of earlier versions
            and those about nothing have little.
        trials: every ended trial of the study, by number.
        curve: `epoch` and `metrics` of each epoch of the training whose weights the challenger is.
        challenger: what its weights found on the test split; None where that is not known.
        champion: what the champion's weights found there.
        decision_id: the name under which it is recorded; "" where that is not known.
        pictures: opens a test image by its name in the detections, upright as it was evaluated;
            gives None for one that is not here. None where the data is not here at all.
        weights_loader: the trainer's `Description.weights_loader`.
        licence, licence_note: of the model's `Package`; "" where there is none yet.
    """

    study: Study
    decision: Decision
    trials: Sequence[TrialFigures] = ()
    curve: Sequence[Mapping[str, Any]] = ()
    challenger: Detections | None = None
    champion: Detections | None = None
    decision_id: str = ""
    pictures: Pictures | None = None
    weights_loader: str = ""
    licence: str = ""
    licence_note: str = ""

    @property
    def evidence(self) -> Evidence:
        """What it was decided on."""
        return self.decision.evidence

    @property
    def metric(self) -> str:
        """The objective's metric."""
        return self.study.spec.objective.metric

    @property
    def evaluation(self) -> EvaluationRecord | None:
        """The challenger's figures on the test split; None where it was not evaluated."""
        return self.evidence.evaluated(self.decision.trial)

    @property
    def finalist(self) -> FinalistResult | None:
        """The challenger among the finalists; None where there were none."""
        return self.evidence.finalist(self.decision.trial)

    @property
    def same_images(self) -> bool:
        """Whether both were seen on the same images, and can stand side by side."""
        if self.challenger is None or self.champion is None:
            return False
        return self.challenger.images == self.champion.images


@dataclass(frozen=True, kw_only=True)
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
    rows = trial_figures(connection, study)
    return [
        TrialFigures(
            number=row.number,
            state=row.state,
            value=None if row.state == "FAIL" else row.value,
            best_epoch=row.best_epoch,
            metrics=row.metrics or {},
            params=params.get(row.number, {}),
            train_s=row.train_s or 0.0,
        )
        for row in rows
    ]


def ranked(study: Study, trials: Sequence[TrialFigures]) -> list[TrialFigures]:
    """Trials with a value: complete ones first, as only they compete; the best first in each."""
    rank_key = study.spec.objective.rank_key
    return sorted(
        (one for one in trials if one.value is not None),
        key=lambda one: (one.state != "COMPLETE", rank_key(one.value or 0.0), one.number),
    )


def best_baseline(study: Study, trials: Sequence[TrialFigures]) -> TrialFigures | None:
    """The best of the trials that the study was created with; None when none has a value."""
    ran = [one for one in trials if one.number < len(study.spec.baselines)]
    return next(iter(ranked(study, ran)), None)
