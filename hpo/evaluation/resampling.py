"""Compute metrics of many samples of a split's images at once.

A sample is given by how often it holds each image. Its value is the one that Ultralytics would
give for a split in which the images stand that often.

The fast way for average precision rests on this: precision rises with each hit, so between two
hits the envelope of precision over recall is flat, and it steps only where a hit is reached. So
a hit adds its envelope times the share of the 101 recall points that it reaches first, and a box
in an image that is drawn w times is w hits with the same envelope. Nothing but the number of
hits and of boxes up to each hit is needed, and those are sums over the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from hpo.evaluation.average_precision import (
    RECALLS,
    Sample,
    by_confidence,
    operating_point,
)
from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hpo.evaluation.detections import Detections

_OVERLAPS = {"mAP50": slice(0, 1), "mAP50-95": slice(None)}
# Numbers in one temporary array: small enough to stay near the processor
_AT_ONCE = 2**17


@dataclass(frozen=True)
class _Curve:
    """What one class's precision over recall at one overlap needs, for h hits.

    Attributes:
        hit_image: (h,) image of each hit, the most confident first.
        boxes: (h, n) how many boxes each image has between the hit before and this one, this one
            among them.
    """

    hit_image: NDArray[Any]
    boxes: Any

    def areas(self, drawn: NDArray[Any], true_boxes: NDArray[Any]) -> NDArray[Any]:
        """(b,) average precision, from (n, b) draws of each image and (b,) true boxes."""
        hits = drawn[self.hit_image].cumsum(0)
        precision = (self.boxes @ drawn).cumsum(0)
        np.divide(hits, np.maximum(precision, 1, out=precision), out=precision)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        reached = _reached(hits, true_boxes)
        area = envelope[0] * reached[0]
        area += ((reached[1:] - reached[:-1]) * envelope[1:]).sum(0)
        return np.asarray(area)


class Resampler:
    """One metric of samples of the images of one model's detections."""

    def __init__(
        self, detections: Detections, metric: str, order: NDArray[Any] | None = None
    ) -> None:
        """Prepare what all samples share.

        Args:
            detections: of the model.
            metric: one of DETECTION_METRICS.
            order: (m,) indices of the detections, the most confident first; Ultralytics' own
                where it is not given. It decides which of equal confidence comes first.

        Raises:
            ValueError: the metric cannot be computed from detections, or an image has more hits
                than true boxes.
        """
        if metric not in DETECTION_METRICS:
            raise ValueError(f"metric {metric}, expected one of {', '.join(DETECTION_METRICS)}")
        self._metric = metric
        self._detections = detections
        self._order = by_confidence(detections) if order is None else order
        self.classes = np.unique(detections.true_kind)
        self._true = _true_boxes(detections, self.classes)
        overlaps = range(detections.correct.shape[1])[_OVERLAPS.get(metric, slice(0))]
        self._curves = [
            [self._curve(kind, at, true) for at in overlaps]
            for kind, true in zip(self.classes, self._true, strict=True)
        ]

    def _curve(self, kind: int, overlap: int, true_boxes: NDArray[Any]) -> _Curve | None:
        """None where no box of that class is a hit."""
        detections = self._detections
        found = self._order[detections.kind[self._order] == kind]
        hits = np.flatnonzero(detections.correct[found, overlap])
        if not len(hits):
            return None
        image = detections.image[found]
        if (np.bincount(image[hits], minlength=len(true_boxes)) > true_boxes).any():
            raise ValueError(f"more hits than true boxes of {detections.names[kind]} in an image")
        upto = image[: hits[-1] + 1]  # what comes after the last hit changes nothing
        row = np.searchsorted(hits, np.arange(len(upto)))
        shape = (len(hits), len(detections.images))
        boxes = csr_array((np.ones(len(upto)), (row, upto)), shape=shape)
        return _Curve(image[hits], boxes)

    def values(self, counts: NDArray[Any]) -> NDArray[Any]:
        """(b,) values of the metric, from (b, n): how often each sample holds each image."""
        if self._metric not in _OVERLAPS:
            return np.array([self._operating(count) for count in counts])
        by_class = self.by_class(counts)
        classes = np.maximum((~np.isnan(by_class)).sum(1), 1)  # without any, Ultralytics says 0
        return np.asarray(np.nansum(by_class, axis=1) / classes)

    def by_class(self, counts: NDArray[Any]) -> NDArray[Any]:
        """(b, classes) average precision; NaN where a sample has no true box of the class."""
        found = np.full((len(counts), len(self.classes)), np.nan)
        most = max((len(c.hit_image) for row in self._curves for c in row if c), default=1)
        step = max(1, _AT_ONCE // most)
        for first in range(0, len(counts), step):
            drawn = np.ascontiguousarray(counts[first : first + step].T, dtype=np.float64)
            true_boxes = self._true @ drawn
            for column, curves in enumerate(self._curves):
                areas = _mean_areas(curves, drawn, true_boxes[column])
                found[first : first + step, column] = areas
        return found

    def _operating(self, count: NDArray[Any]) -> float:
        """Precision or recall of one sample, its images literally repeated."""
        detections = self._detections
        rows = np.repeat(self._order, count[detections.image[self._order]])
        true_kind = np.repeat(detections.true_kind, count[detections.true_image])
        sample = Sample(
            detections.correct[rows], detections.confidence[rows], detections.kind[rows], true_kind
        )
        _, precision, recall = operating_point(sample)
        wanted = precision if self._metric == "precision" else recall
        return float(wanted.mean()) if len(wanted) else 0.0


def _true_boxes(detections: Detections, classes: NDArray[Any]) -> NDArray[Any]:
    """(classes, n) true boxes of each class in each image."""
    boxes = np.zeros((len(classes), len(detections.images)))
    np.add.at(boxes, (np.searchsorted(classes, detections.true_kind), detections.true_image), 1)
    return boxes


def _mean_areas(
    curves: list[_Curve | None], drawn: NDArray[Any], true_boxes: NDArray[Any]
) -> NDArray[Any]:
    """(b,) mean over the overlaps; NaN where there is no true box."""
    some = np.maximum(true_boxes, 1)
    total = np.zeros(len(true_boxes))
    for curve in curves:
        if curve is not None:
            total += curve.areas(drawn, some)
    return np.where(true_boxes > 0, total / max(len(curves), 1), np.nan)


# By how many of the recall points are reached: their weight in the area
_WEIGHTS = np.diff(RECALLS, prepend=0.0) / 2 + np.diff(RECALLS, append=1.0) / 2
_SHARES = np.concatenate(([0.0], _WEIGHTS.cumsum()))


def _reached(hits: NDArray[Any], true_boxes: NDArray[Any]) -> NDArray[Any]:
    """Share of the recall points that a number of hits has reached: those below its recall.

    A point that is met exactly is not below. No number of NumPy's linspace is less than the
    hundredth that it stands for, so whole percents say the same as comparing with the points.
    """
    return np.asarray(_SHARES.take(np.ceil(hits * 100 / true_boxes).astype(np.intp)))
