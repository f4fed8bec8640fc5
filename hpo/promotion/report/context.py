"""Gather everything that the record of a decision is written from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.studies.trials import trial_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.Image import Image

    from hpo.evaluation.detections import Detections
    from hpo.promotion.decision import Decision
    from hpo.studies.store import Study

    Pictures = Callable[[str], Image | None]
    from sqlalchemy import Connection


@dataclass(frozen=True)
class Exhibit:
    """One decision with all that can be shown of it.

    Attributes:
        study: whose trial was decided about.
        decision: what was decided; its evidence may lack any key: decisions of earlier versions
            and those about nothing have few.
        trials: every ended trial of the study, by number.
        curve: `epoch` and `metrics` of each epoch of the training whose weights the challenger is.
        challenger: what its weights found on the test split; None where that is not known.
        champion: what the champion's weights found there.
        decision_id: the name under which it is recorded; "" where that is not known.
        pictures: opens a test image by its name in the detections, upright as it was evaluated;
            gives None for one that is not here. None where the data is not here at all.
    """

    study: Study
    decision: Decision
    trials: Sequence[TrialFigures] = ()
    curve: Sequence[Mapping[str, Any]] = ()
    challenger: Detections | None = None
    champion: Detections | None = None
    decision_id: str = ""
    pictures: Pictures | None = None

    @property
    def evidence(self) -> Mapping[str, Any]:
        """The figures that it was decided on."""
        return self.decision.evidence

    @property
    def metric(self) -> str:
        """The objective's metric."""
        return self.study.spec.objective.metric

    @property
    def same_images(self) -> bool:
        """Whether both were seen on the same images, and can stand side by side."""
        if self.challenger is None or self.champion is None:
            return False
        return self.challenger.images == self.champion.images


def evaluation_of(evidence: Mapping[str, Any], trial: int | None) -> Mapping[str, Any]:
    """The challenger's `Evaluated` as a mapping; empty where there is none."""
    if evidence.get("evaluation"):
        return dict(evidence["evaluation"])
    for finalist in evidence.get("finalists") or ():
        if finalist["trial"] == trial and finalist.get("evaluation"):
            return dict(finalist["evaluation"])
    return {}


def champion_of(evidence: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is known of the champion that was there before; empty where there was none."""
    champion = evidence.get("champion")
    return dict(champion) if isinstance(champion, dict) else {}


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
    rows = trial_figures(connection, study)
    return [
        TrialFigures(
            row.number, row.state, None if row.state == "FAIL" else row.value, row.best_epoch,
            row.metrics or {}, params.get(row.number, {}), row.train_s or 0.0,
        )
        for row in rows
    ]  # fmt: skip


def ranked(study: Study, trials: Sequence[TrialFigures]) -> list[TrialFigures]:
    """Those with a value: complete ones first, as only they compete; the best first in each."""
    rank_key = study.spec.objective.rank_key
    return sorted(
        (one for one in trials if one.value is not None),
        key=lambda one: (one.state != "COMPLETE", rank_key(one.value or 0.0), one.number),
    )


def best_baseline(study: Study, trials: Sequence[TrialFigures]) -> TrialFigures | None:
    """The best of the trials that the study was created with; None when none has a value."""
    ran = [one for one in trials if one.number < len(study.spec.baselines)]
    return next(iter(ranked(study, ran)), None)
