"""A challenger against the present champion on one test split, as figures; decides nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hpo.evaluation.average_precision import METRICS
from hpo.evaluation.gate import judge
from hpo.evaluation.significance import difference, interval, unpaired

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hpo.evaluation.detections import Detections
    from hpo.evaluation.gate import Verdict
    from hpo.evaluation.record import Evaluated
    from hpo.evaluation.significance import Difference
    from hpo.promotion.finalists import Finalist
    from hpo.promotion.incumbent import Incumbent
    from hpo.studies.store import Study


@dataclass(frozen=True)
class Weighing:
    """What the test split says.

    Attributes:
        verdict: of the gate.
        difference: challenger less champion; None without a champion, or where the two cannot
            be compared.
        incomparable: why they cannot be; "" when they can.
    """

    verdict: Verdict
    difference: Difference | None
    incomparable: str

    def evidence(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {
            "reason": self.incomparable or self.verdict.reason,
            "difference": None if self.difference is None else asdict(self.difference),
            "rules": [dict(rule) for rule in self.verdict.rules],
            "comparable": not self.incomparable,
        }


def weigh(
    study: Study,
    evaluated: Evaluated,
    detections: Detections | None,
    incumbent: Incumbent | None,
) -> Weighing:
    """The challenger (`evaluated`, `detections`) against the champion, None for none."""
    spec = study.spec
    rules, metric, direction = spec.promotion, spec.objective.metric, spec.objective.direction
    found, incomparable = None, ""
    if incumbent is not None:
        incomparable = _incomparable(metric, detections, incumbent.detections)
        if not incomparable and detections is not None and incumbent.detections is not None:
            found = difference(
                detections, incumbent.detections, metric, direction=direction,
                resamples=rules.resamples, seed=rules.seed, confidence=rules.confidence,
            )  # fmt: skip
    champion = None if incumbent is None else incumbent.evaluated
    return Weighing(
        judge(rules, evaluated, champion, found, metric, direction), found, incomparable
    )


def _incomparable(metric: str, one: Detections | None, other: Detections | None) -> str:
    if metric not in METRICS:
        return f"{metric} cannot be computed from detections"
    if one is None or other is None:
        return "the trainer keeps no detections"
    return unpaired(one, other)


def finalists_evidence(
    study: Study, field: Sequence[Finalist], detections: Callable[[str], Detections | None]
) -> list[dict[str, Any]]:
    """Every finalist with its figures and the interval of its value on the test split.

    Args:
        study: the study.
        field: the finalists, best by validation first.
        detections: gives the stored detections of a sha256; None where they are gone.
    """
    return [_finalist(study, one, detections) for one in field]


def _finalist(
    study: Study, one: Finalist, detections: Callable[[str], Detections | None]
) -> dict[str, Any]:
    best = one.best(study).evaluated if one.runs else None
    sha256 = None if best is None else best.detections_sha256
    found = None if sha256 is None else detections(sha256)
    return {
        "trial": one.candidate.number,
        "value": one.value if one.runs else None,
        "spread": one.spread,
        "seeds": [
            {"seed": run.seed, "value": run.value, "final": run.final,
             "weights_sha256": run.weights_sha256}
            for run in one.runs
        ],
        "evaluation": None if best is None else best.to_dict(),
        "interval": _interval(study, found),
        "out": one.out,
    }  # fmt: skip


def _interval(study: Study, found: Detections | None) -> list[float] | None:
    rules, metric = study.spec.promotion, study.spec.objective.metric
    if found is None or metric not in METRICS:
        return None
    return list(
        interval(
            found, metric,
            resamples=rules.resamples, seed=rules.seed, confidence=rules.confidence,
        )
    )  # fmt: skip


def class_differences(evaluated: Evaluated, incumbent: Incumbent | None) -> list[dict[str, Any]]:
    """AP50 of each class, of the challenger and of the champion."""
    theirs = {} if incumbent is None else incumbent.evaluated.per_class
    rows = []
    for name, figures in evaluated.per_class.items():
        own, other = figures.get("AP50"), theirs.get(name, {}).get("AP50")
        gain = None if own is None or other is None else own - other
        rows.append({"name": name, "challenger": own, "champion": other, "difference": gain})
    return rows
