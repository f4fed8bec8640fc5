"""Compute a confusion matrix from stored detections.

Boxes are matched as Ultralytics' `ConfusionMatrix` does: detections above a confidence, the most
confident first, each take the true box that they overlap most among those still free, whatever its
class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hpo.evaluation.detections import Detections

CONFIDENCE = 0.25  # detections are counted above this
OVERLAP = 0.5  # intersection over union above which a detection and a true box are one object
_TINY = 1e-7  # Ultralytics' own, against a division by zero


@dataclass(frozen=True)
class Matched:
    """Which detections are counted, and which true box each of them has.

    Attributes:
        counted: (k,) int64, indices of the counted detections.
        true_box: (k,) int64, index of the true box of each; -1 for none.
    """

    counted: NDArray[Any]
    true_box: NDArray[Any]


@dataclass(frozen=True)
class ImageMatches:
    """One image: what was found and what was to be found, as indices into the detections.

    Attributes:
        right: detections on a true box of their class.
        wrong: detections on a true box of another class, or on none.
        missed: true boxes that no detection of their class is on.
    """

    right: tuple[int, ...]
    wrong: tuple[int, ...]
    missed: tuple[int, ...]

    @property
    def mistakes(self) -> int:
        """How many false detections and missed boxes the image has."""
        return len(self.wrong) + len(self.missed)


def matched(
    found: Detections, *, confidence: float = CONFIDENCE, overlap: float = OVERLAP
) -> Matched:
    """Each detection above `confidence` with its true box, one detection a box."""
    counted = np.flatnonzero(found.confidence > confidence)
    true_box = np.full(len(counted), -1, dtype=np.int64)
    for image in np.unique(found.true_image):
        mine = np.flatnonzero(found.image[counted] == image)
        truths = np.flatnonzero(found.true_image == image)
        if len(mine):
            overlaps = _overlaps(found.true_box[truths], found.box[counted[mine]])
            order = np.argsort(-found.confidence[counted[mine]], kind="stable")
            for detection in order:
                truth = int(overlaps[:, detection].argmax())
                if overlaps[truth, detection] > overlap:
                    true_box[mine[detection]] = truths[truth]
                    overlaps[truth] = 0
    return Matched(counted, true_box)


def confusion(
    found: Detections, *, confidence: float = CONFIDENCE, overlap: float = OVERLAP
) -> NDArray[Any]:
    """(c + 1, c + 1) int64 counts: true class by predicted class; the last of each is background.

    The last column counts true boxes that nothing was found on, the last row detections that are
    on no true box.
    """
    match = matched(found, confidence=confidence, overlap=overlap)
    background = len(found.names)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    paired = match.true_box >= 0
    truths = match.true_box[paired]
    np.add.at(counts, (found.true_kind[truths], found.kind[match.counted[paired]]), 1)
    np.add.at(counts[background], found.kind[match.counted[~paired]], 1)
    missed = np.ones(len(found.true_kind), dtype=bool)
    missed[truths] = False
    np.add.at(counts[:, background], found.true_kind[missed], 1)
    return counts


def by_image(found: Detections) -> list[ImageMatches]:
    """What is right and wrong in each image, in the order of `found.images`."""
    match = matched(found)
    right: list[list[int]] = [[] for _ in found.images]
    wrong: list[list[int]] = [[] for _ in found.images]
    hit = np.zeros(len(found.true_kind), dtype=bool)
    for detection, truth in zip(match.counted.tolist(), match.true_box.tolist(), strict=True):
        good = truth >= 0 and found.true_kind[truth] == found.kind[detection]
        (right if good else wrong)[int(found.image[detection])].append(detection)
        if good:
            hit[truth] = True
    missed: list[list[int]] = [[] for _ in found.images]
    for truth in np.flatnonzero(~hit).tolist():
        missed[int(found.true_image[truth])].append(truth)
    return [
        ImageMatches(tuple(a), tuple(b), tuple(c))
        for a, b, c in zip(right, wrong, missed, strict=True)
    ]


def _overlaps(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    other_areas = (others[:, 2:] - others[:, :2]).prod(1)
    union = areas[:, None] + other_areas[None, :] - shared + _TINY
    return np.asarray(shared / union)
