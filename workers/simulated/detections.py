"""Make up detections of a wanted quality, for load and fault tests.

What should be found on a split (images, true boxes, how hard each is to find) follows from the
split's name alone, so that two models meet the same easy and hard images. What a model finds
follows from its quality q, 0 to 1, and its own chance: a true box of difficulty d, uniform in
0 to 1, is found with probability

    A / (A + exp(d / s)),  A = (exp(q / s) - 1) / (1 - exp((q - 1) / s))

whose mean over d is q. The share of boxes found is about q, wrong boxes are less confident than
most of the right ones, and so mAP50 is about q.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.evaluation.detections import OVERLAPS, Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES = 100
NAMES = ("square", "disc")
WIDTH, HEIGHT = 640, 480
MOST_BOXES = 4  # true ones, in an image
WRONG_SHARE = 0.5  # wrong boxes for each true one, in a model of quality 0
SOFTNESS = 0.06  # s: how much chance there is beside the difficulty
_ROOM = 40  # px on each side: wrong boxes lie in it, shifted ones do not leave the image


def make_detections(quality: float, chance: str, split: str) -> Detections:
    """What a model finds on a split.

    Args:
        quality: about the mAP50 of what is found, 0 to 1.
        chance: the same text gives the same detections.
        split: `train`, `val` or `test`.
    """
    true_image, true_box, true_kind, difficulty = _truth(split)
    rng = _generator(f"{chance} {split}")
    found = rng.random(len(difficulty)) < _chance_to_find(quality, difficulty)
    overlap = 0.5 + 0.5 * rng.random(len(difficulty))  # makes mAP50-95 about 0.4 of mAP50
    sure = 0.8 - 0.5 * difficulty + rng.uniform(-0.15, 0.15, len(difficulty))
    wrong = rng.random(len(difficulty)) < WRONG_SHARE * (1 - quality)
    count = int(wrong.sum())
    box = np.concatenate([_shifted(true_box, overlap)[found], _wrong(rng, count)])
    image = np.concatenate([true_image[found], true_image[wrong]])
    confidence = np.concatenate([sure[found], 0.001 + 0.5 * rng.random(count) ** 2])
    kind = np.concatenate([true_kind[found], true_kind[wrong]])
    reached = overlap[found, None] >= np.array(OVERLAPS)
    correct = np.concatenate([reached, np.zeros((count, len(OVERLAPS)), dtype=bool)])
    order = np.lexsort((-confidence, image))  # as a detector's: within an image, the surest first
    return Detections(
        images=tuple(f"images/{split}/{number:03}.png" for number in range(IMAGES)),
        names=NAMES,
        sizes=np.tile(np.array([HEIGHT, WIDTH], dtype=np.int32), (IMAGES, 1)),
        image=image[order].astype(np.int32),
        box=box[order].astype(np.float32),
        confidence=confidence[order].astype(np.float32),
        kind=kind[order].astype(np.int32),
        correct=correct[order],
        true_image=true_image.astype(np.int32),
        true_box=true_box.astype(np.float32),
        true_kind=true_kind.astype(np.int32),
    )


def _truth(split: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(t,) image, (t, 4) box in px, (t,) class and (t,) difficulty of each true box."""
    rng = _generator(split)
    image = np.repeat(np.arange(IMAGES), rng.integers(1, MOST_BOXES + 1, IMAGES))
    total = len(image)
    side = rng.uniform(40, 120, (total, 2))
    free = np.array([WIDTH, HEIGHT]) - 2 * _ROOM - side
    corner = _ROOM + rng.random((total, 2)) * free
    box = np.concatenate([corner, corner + side], axis=1)
    kind = rng.integers(0, len(NAMES), total)
    # Boxes of a hard image are hard; by rank, so that difficulties fill 0 to 1 evenly
    mixed = 0.6 * rng.random(IMAGES)[image] + 0.4 * rng.random(total)
    difficulty = (mixed.argsort().argsort() + 0.5) / total
    return image, box, kind, difficulty


def _chance_to_find(quality: float, difficulty: NDArray[Any]) -> NDArray[Any]:
    """(t,) probabilities; see the module."""
    if quality in (0.0, 1.0):
        return np.full(len(difficulty), quality)
    odds = np.expm1(quality / SOFTNESS) / -np.expm1((quality - 1) / SOFTNESS)
    chances: NDArray[Any] = odds / (odds + np.exp(difficulty / SOFTNESS))
    return chances


def _shifted(box: NDArray[Any], overlap: NDArray[Any]) -> NDArray[Any]:
    """Boxes moved to the right until they overlap as much with what they were."""
    by = (box[:, 2] - box[:, 0]) * (1 - overlap) / (1 + overlap)
    zero = np.zeros_like(by)
    moved: NDArray[Any] = box + np.stack([by, zero, by, zero], axis=1)
    return moved


def _wrong(rng: np.random.Generator, count: int) -> NDArray[Any]:
    """Boxes along the upper edge, where no true box is."""
    corner = np.stack([rng.uniform(0, WIDTH - _ROOM, count), np.zeros(count)], axis=1)
    boxes: NDArray[Any] = np.concatenate([corner, corner + _ROOM * 0.9], axis=1)
    return boxes


def _generator(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(sha256(text.encode()).digest()[:8], "big"))
