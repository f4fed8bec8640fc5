"""A challenger weighed against the champion: what is compared, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import exhibits
from support.found import Drawn, draw, without_truth

from hpo.evaluation.average_precision import figures
from hpo.evaluation.record import EvaluationRecord
from hpo.evaluation.significance import measure_gain
from hpo.promotion.champion_evaluation import EvaluatedChampion
from hpo.promotion.evidence import Evidence
from hpo.promotion.gate import Comparison, compare

if TYPE_CHECKING:
    from hpo.evaluation.detections import Detections

STUDY = exhibits.study(max_class_loss=None, max_latency_ms=None, max_size_mb=None)
FORTY = Drawn(images=40)
GOOD, POOR = draw(1, FORTY), draw(1, replace(FORTY, found=0.2), model=1)


def evaluated(found: Detections | None) -> EvaluationRecord:
    metrics = {"mAP50": 0.5} if found is None else figures(found).metrics
    return EvaluationRecord(
        weights_sha256="sha", test_fingerprint="print", metrics=metrics, images=40
    )


def weighed(challenger: Detections | None, champion: Detections | None) -> Comparison:
    incumbent = EvaluatedChampion(
        version=3, study="before", trial=4, evaluated=evaluated(champion), detections=champion,
        again=False,
    )  # fmt: skip
    return compare(STUDY, evaluated(challenger), challenger, incumbent)


def test_the_evidence_is_the_difference_with_its_luck() -> None:
    """By the rules of the study; each rule of the gate is listed."""
    found = weighed(GOOD, POOR)
    rules = STUDY.spec.promotion
    expected = measure_gain(
        GOOD, POOR, "mAP50",
        resamples=rules.resamples, seed=rules.seed, confidence=rules.confidence,
    )  # fmt: skip
    assert found.result.outcome == "promoted"
    evidence = found.added_to(Evidence())
    assert evidence.gain == expected
    assert evidence.to_json()["difference"]["luck"] == 1 / 2001
    assert [one.rule for one in evidence.rules] == ["gain", "luck"]
    assert evidence.comparable


@pytest.mark.parametrize(
    ("champion", "why"),
    [
        (None, "the trainer keeps no detections"),
        (replace(POOR, names=POOR.names[::-1]), "their classes differ: "),
        (replace(POOR, images=POOR.images[::-1]), "they were evaluated on other images"),
        (
            without_truth(POOR, np.arange(1, len(POOR.true_kind))),
            "the true boxes of their images differ",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(champion: Detections | None, why: str) -> None:
    """In words, not as an error; nothing is promoted over it."""
    found = weighed(GOOD, champion)
    assert found.incomparable.startswith(why)
    assert found.difference is None
    assert found.result.outcome == "kept"
    assert found.added_to(Evidence()).reason == found.incomparable
