"""Compute mAP, precision and recall of detections as Ultralytics defines them.

The definition is that of `ap_per_class` and `DetMetrics` in Ultralytics' utils/metrics.py: the area
under the envelope of precision over recall by 101 points, the mean over the classes that have a
true box, and precision and recall at the confidence where the smoothed mean F1 is largest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hpo.evaluation.detections import Detections

# The mean over the classes of which of their figures
_OF_CLASS = tuple(zip(DETECTION_METRICS, ("AP50", "AP50-95", "precision", "recall"), strict=True))
RECALLS = np.linspace(0, 1, 101)
_CONFIDENCES = np.linspace(0, 1, 1000)
_SMOOTHED = 0.1  # share of the curve's length, half of it to each side
_TINY = 1e-16  # Ultralytics' own, against a division by zero


@dataclass(frozen=True)
class Figures:
    """Metrics of detections: over all classes, and by class.

    Attributes:
        metrics: name -> value of each of DETECTION_METRICS.
        per_class: class name -> AP50, AP50-95, precision and recall; classes without a true box
            are not there.
    """

    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Sample:
    """Detections of a drawn sample of images, the most confident first.

    Attributes:
        correct: (m, 10) bool.
        confidence, kind: (m,).
        true_kind: (t,).
    """

    correct: NDArray[Any]
    confidence: NDArray[Any]
    kind: NDArray[Any]
    true_kind: NDArray[Any]


def by_confidence(detections: Detections) -> NDArray[Any]:
    """(m,) indices, the most confident first; equal ones in the order that Ultralytics gives them.

    Its sort is not stable. The same call on the same values is what keeps their order the same.
    """
    return np.argsort(-detections.confidence)


def figures(detections: Detections) -> Figures:
    """Every figure of all images, each counted once."""
    order = by_confidence(detections)
    sample = Sample(
        detections.correct[order],
        detections.confidence[order],
        detections.kind[order],
        detections.true_kind,
    )
    classes, precision, recall = operating_point(sample)
    per_class = {}
    for row, kind in enumerate(classes):
        areas = _areas(sample, kind)
        per_class[detections.names[int(kind)]] = {
            "AP50": float(areas[0]),
            "AP50-95": float(areas.mean()),
            "precision": float(precision[row]),
            "recall": float(recall[row]),
        }
    values = {name: _mean([one[key] for one in per_class.values()]) for name, key in _OF_CLASS}
    return Figures(values, per_class)


def operating_point(sample: Sample) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(classes with a true box, the precision of each, the recall of each) at the best mean F1."""
    classes, true_boxes = np.unique(sample.true_kind, return_counts=True)
    precision = np.zeros((len(classes), len(_CONFIDENCES)))
    recall = np.zeros_like(precision)
    for row, (kind, boxes) in enumerate(zip(classes, true_boxes, strict=True)):
        found = sample.kind == kind
        if not found.any():
            continue
        hits = sample.correct[found, 0].cumsum()
        # Falling, so negated: np.interp wants them to rise
        at = -sample.confidence[found]
        recall[row] = np.interp(-_CONFIDENCES, at, hits / boxes, left=0)
        share = hits / np.arange(1, len(hits) + 1)
        precision[row] = np.interp(-_CONFIDENCES, at, share, left=1)
    if not len(classes):
        return classes, np.zeros(0), np.zeros(0)
    f1 = 2 * precision * recall / (precision + recall + _TINY)
    best = int(_smooth(f1.mean(0)).argmax())
    return classes, precision[:, best], recall[:, best]


def _areas(sample: Sample, kind: int) -> NDArray[Any]:
    """(10,) average precision of one class at each overlap."""
    correct = sample.correct[sample.kind == kind]
    boxes = int((sample.true_kind == kind).sum())
    if not len(correct):
        return np.zeros(correct.shape[1])
    hits = correct.cumsum(0)
    precision = hits / np.arange(1, len(hits) + 1)[:, None]
    return np.array([_area(hits[:, at] / boxes, precision[:, at]) for at in range(hits.shape[1])])


def _area(recall: NDArray[Any], precision: NDArray[Any]) -> float:
    """Area under the envelope of precision over recall, by the 101 points of COCO."""
    reached = np.concatenate(([0.0], recall, [recall[-1], 1.0]))
    envelope = np.concatenate(([1.0], precision, [0.0, 0.0]))
    envelope = np.maximum.accumulate(envelope[::-1])[::-1]
    return float(np.trapezoid(np.interp(RECALLS, reached, envelope), RECALLS))


def _smooth(curve: NDArray[Any]) -> NDArray[Any]:
    """The curve's running mean; its ends are continued with their own value."""
    width = round(len(curve) * _SMOOTHED * 2) // 2 + 1
    ends = np.ones(width // 2)
    padded = np.concatenate((ends * curve[0], curve, ends * curve[-1]))
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _mean(values: list[float]) -> float:
    """Mean of the values; 0 without any, as Ultralytics has it where there is no true box."""
    return float(np.mean(values)) if values else 0.0
