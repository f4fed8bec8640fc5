"""How sure a figure of detections is, by resampling the images; knows no rules and no champion.

Both models see the same resamples: the images that are hard for one are hard for the other, and
only the difference counts. The samples are of images, not of boxes, whose luck is shared.

Two intervals are here, each bound one-sided at the confidence:

- `percentile`: the bound is that percentile of the resampled values. It is too narrow where images
  are few: with 10 of them it promotes an equal model more often than it says (docs/promotion.md).
- `expanded percentile`, the one in use: another percentile p', such that
  z(p') * sqrt((n - 1) / n) = t(p, n - 1), after T. Hesterberg, What Teachers Should Know About the
  Bootstrap, https://arxiv.org/abs/1411.5279, as in ExpandProbs of his R package `resample`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, stdtrit

from hpo.evaluation.resampled import Resampler
from hpo.evaluation.swapping import p_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hpo.evaluation.detections import Detections

PERCENTILE = "percentile"
EXPANDED = "expanded percentile"
# Draws of images in one array
_AT_ONCE = 2**22
# Sums of the same numbers in another order differ in their last bits; that is no gain
_DIGITS = 12


@dataclass(frozen=True)
class Difference:
    """Challenger less champion, positive where the challenger is better.

    Attributes:
        value: on the images themselves.
        low, high: bounds, each one-sided at `confidence`. The whole range that a difference can
            have where the images are too few to say anything.
        better: share of the resamples in which the challenger is better; a tie counts half.
        resamples, seed: of the bootstrap, and as many swaps.
        confidence: of each bound.
        method: how the bounds come from the resamples.
        images: number of images.
        luck: chance that two equal models show at least such a gain (hpo.evaluation.swapping).
    """

    value: float
    low: float
    high: float
    better: float
    resamples: int
    seed: int
    confidence: float
    method: str
    images: int
    luck: float


@dataclass(frozen=True)
class Resampled:
    """A figure of the images, and of samples of them.

    Attributes:
        value: of each image once.
        values: (resamples,) of each sample.
        images: number of images.
        seed: of the samples.
    """

    value: float
    values: NDArray[Any]
    images: int
    seed: int

    def bounds(self, confidence: float, method: str = EXPANDED) -> tuple[float, float] | None:
        """(low, high); None where the images are too few for such a confidence."""
        if self.images < fewest_images(confidence):
            return None
        level = 1 - confidence
        if method == EXPANDED:
            level = _expanded(level, self.images)
        low, high = np.quantile(self.values, [level, 1 - level])
        return float(low), float(high)

    def difference(self, confidence: float, luck: float, method: str = EXPANDED) -> Difference:
        """Where the figure is a gain: what its resamples say of it, and the swaps' p value."""
        low, high = self.bounds(confidence, method) or (-1.0, 1.0)
        better = float(((self.values > 0) + 0.5 * (self.values == 0)).mean())
        return Difference(
            self.value, low, high, better, len(self.values), self.seed, confidence, method,
            self.images, luck,
        )  # fmt: skip


def fewest_images(confidence: float) -> int:
    """How many images it takes at least: that all favour one of two equal models is this unlikely.

    With fewer, every image can favour a model and prove nothing, whatever the method.
    """
    return max(2, math.ceil(round(-math.log2(1 - confidence), 9)))


def difference(
    challenger: Detections,
    champion: Detections,
    metric: str,
    *,
    direction: str = "maximize",
    resamples: int,
    seed: int,
    confidence: float,
) -> Difference:
    """How much better the challenger is, the same for the same seed.

    Raises:
        ValueError: they are not of the same images, classes and true boxes, or the metric is
            unknown.
    """
    gains = resampled_gains(
        challenger, champion, metric, direction=direction, resamples=resamples, seed=seed
    )
    luck = p_value(challenger, champion, metric, direction=direction, draws=resamples, seed=seed)
    return gains.difference(confidence, luck)


def interval(
    detections: Detections, metric: str, *, resamples: int, seed: int, confidence: float
) -> tuple[float, float]:
    """Bounds of one model's metric, each one-sided at the confidence.

    Raises:
        ValueError: the metric is unknown.
    """
    (values,) = _values((detections,), metric, resamples, seed)
    found = Resampled(float(values[0]), values[1:], len(detections.images), seed)
    return found.bounds(confidence) or (0.0, 1.0)


def resampled_gains(
    challenger: Detections,
    champion: Detections,
    metric: str,
    *,
    direction: str = "maximize",
    resamples: int,
    seed: int,
) -> Resampled:
    """What `difference` rests on.

    Raises:
        ValueError: see `difference`.
    """
    if fault := unpaired(challenger, champion):
        raise ValueError(fault)
    own, other = _values((challenger, champion), metric, resamples, seed)
    gains = own - other if direction == "maximize" else other - own
    gains = np.round(gains, _DIGITS)
    return Resampled(float(gains[0]), gains[1:], len(challenger.images), seed)


def unpaired(one: Detections, other: Detections) -> str:
    """Why the two cannot be compared image by image; "" when they can."""
    if one.names != other.names:
        return f"their classes differ: {', '.join(one.names)} and {', '.join(other.names)}"
    if one.images != other.images:
        return "they were evaluated on other images"
    if not all(map(np.array_equal, _true(one), _true(other))):
        return "the true boxes of their images differ"
    return ""


def _true(detections: Detections) -> tuple[NDArray[Any], NDArray[Any]]:
    return detections.true_image, detections.true_kind


def _values(
    models: Sequence[Detections], metric: str, resamples: int, seed: int
) -> list[NDArray[Any]]:
    """For each model (1 + resamples,) values: of the images themselves, then of each sample."""
    images = len(models[0].images)
    if not images:
        raise ValueError("there are no images")
    rng = np.random.default_rng(seed)
    resamplers = [Resampler(model, metric) for model in models]
    found = [[one.values(np.ones((1, images), dtype=np.int64))] for one in resamplers]
    left = resamples
    while left:
        now = min(left, max(1, _AT_ONCE // images))
        counts = _draw(rng, now, images)
        for one, values in zip(resamplers, found, strict=True):
            values.append(one.values(counts))
        left -= now
    return [np.concatenate(values) for values in found]


def _draw(rng: np.random.Generator, samples: int, images: int) -> NDArray[Any]:
    """(samples, images) how often each sample, as large as the split, holds each image."""
    drawn = rng.integers(0, images, (samples, images)) + np.arange(samples)[:, None] * images
    counts = np.bincount(drawn.ravel(), minlength=samples * images)
    return np.asarray(counts.reshape(samples, images))


def _expanded(level: float, images: int) -> float:
    """The percentile that makes up for few images; below `level`."""
    return float(ndtr(math.sqrt(images / (images - 1)) * stdtrit(images - 1, level)))
