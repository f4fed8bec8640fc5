"""How sure the difference between two detectors is: bootstrap interval and permutation test.

Both tests draw samples of images, not of boxes: the luck of an image's boxes is shared. Both models
see the same samples: images that are hard for one are hard for the other, and only the difference
counts.

Bootstrap. Two intervals are here, each bound one-sided at the confidence:

- `percentile`: the bound is that percentile of the resampled values. It is too narrow where images
  are few: with 10 of them it promotes an equal model more often than it says (docs/promotion.md).
- `expanded percentile`, the one in use: another percentile p', such that
  z(p') * sqrt((n - 1) / n) = t(p, n - 1), after T. Hesterberg, What Teachers Should Know About the
  Bootstrap, https://arxiv.org/abs/1411.5279, as in ExpandProbs of his R package `resample`.

Permutation test. For each draw every image's detections change places between the two models with
probability 1/2. Where the models are equal, the observed gain is one such draw like any other, so
that its rank among them is a p value that keeps its word for any number of images. The observed
gain counts among the draws, hence the ones added: B. Phipson, G. Smyth, Permutation P-values Should
Never Be Zero (2010), https://doi.org/10.2202/1544-6115.1585, https://arxiv.org/abs/1603.05766.

Both models lie side by side in one `Resampler` as images of a split twice as large: a swap is a
sample that holds each image once, as one model or the other saw it. Equal confidences stand in the
order of their images, whichever model they come from; else a swap would not undo a swap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, stdtrit

from hpo.evaluation.resampling import Resampler
from hpo.host.serialization import JsonRecord
from hpo.trainer import sign_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hpo.evaluation.detections import Detections

_BY_DETECTION = ("image", "box", "confidence", "kind", "correct")
_BY_TRUE_BOX = ("true_image", "true_box", "true_kind")
# Sums of the same numbers in another order differ in their last bits: a tie all the same
_TINY = 1e-12
# Images of all permutations in one array
_PERMUTATIONS_AT_ONCE = 2**21


class PermutedGain:
    """The gain of one model over another, with any images swapped between them."""

    def __init__(self, challenger: Detections, champion: Detections, metric: str) -> None:
        """Prepare what all swaps share; the two are of the same images, classes and true boxes.

        Raises:
            ValueError: the metric cannot be computed from detections.
        """
        self.images = len(challenger.images)
        pooled = _side_by_side(challenger, champion)
        order = np.lexsort((pooled.image % self.images, -pooled.confidence))
        self._resampler = Resampler(pooled, metric, order)

    def gains(self, swapped: NDArray[Any]) -> NDArray[Any]:
        """(b,) metric of the challenger less the champion's, from (b, n): which are swapped."""
        changed = np.asarray(swapped, dtype=np.int64)
        stayed = 1 - changed
        one = self._resampler.values(np.concatenate((stayed, changed), axis=1))
        other = self._resampler.values(np.concatenate((changed, stayed), axis=1))
        return np.asarray(one - other)


def p_value(
    challenger: Detections,
    champion: Detections,
    metric: str,
    *,
    direction: str = "maximize",
    draws: int,
    seed: int,
) -> float:
    """Chance that equal models show at least such a gain; the same for the same seed.

    With each draw counts its opposite, which swaps the other images instead: it is as likely, and
    its gain is the same with the sign turned. An odd number of draws gets one more.

    Args:
        challenger: its detections.
        champion: its detections of the same images, classes and true boxes.
        metric: of which the gain is.
        direction: of the metric, `maximize` or `minimize`.
        draws: how many, the opposites among them.
        seed: of the draws.
    """
    permuted = PermutedGain(challenger, champion, metric)
    seen = sign_of(direction) * float(permuted.gains(np.zeros((1, permuted.images)))[0])
    rng = np.random.default_rng(seed)
    pairs, as_large = (draws + 1) // 2, 0
    step = max(1, _PERMUTATIONS_AT_ONCE // permuted.images)
    for first in range(0, pairs, step):
        gains = permuted.gains(rng.integers(0, 2, (min(step, pairs - first), permuted.images)))
        as_large += int((gains >= seen - _TINY).sum() + (-gains >= seen - _TINY).sum())
    return (1 + as_large) / (1 + 2 * pairs)


def _side_by_side(one: Detections, other: Detections) -> Detections:
    """Both as one model of twice the images: the first's, then the second's."""
    moved = replace(
        other,
        image=other.image + len(one.images),
        true_image=other.true_image + len(one.images),
    )
    joined: dict[str, Any] = {
        name: np.concatenate((getattr(one, name), getattr(moved, name)))
        for name in ("sizes", *_BY_DETECTION, *_BY_TRUE_BOX)
    }
    return replace(one, images=one.images + other.images, **joined)


PERCENTILE = "percentile"
EXPANDED = "expanded percentile"
# Draws of images in one array
_DRAWS_AT_ONCE = 2**22
# Sums of the same numbers in another order differ in their last bits; that is no gain
_DIGITS = 12


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


@dataclass(frozen=True, kw_only=True)
class Gain(JsonRecord):
    """Challenger less champion, positive where the challenger is better.

    Attributes:
        value: on the images themselves.
        low, high: bounds, each one-sided at `confidence`. The whole range that a difference can
            have where the images are too few to say anything.
        probability_better: share of the resamples in which the challenger is better; a tie counts
            half.
        resamples, seed: of the bootstrap, and as many swaps.
        confidence: of each bound.
        method: how the bounds come from the resamples.
        images: number of images.
        p_value: chance that two equal models show at least such a gain, by the permutation test.

    A figure that a stored gain lacks is NaN.
    """

    value: float = field(default=math.nan, metadata={"read": _number})
    low: float = field(default=math.nan, metadata={"read": _number})
    high: float = field(default=math.nan, metadata={"read": _number})
    probability_better: float = field(default=math.nan, metadata={"key": "better", "read": _number})
    resamples: int = 0
    seed: int = 0
    confidence: float = field(default=math.nan, metadata={"read": _number})
    method: str = ""
    images: int = 0
    p_value: float = field(default=math.nan, metadata={"key": "luck", "read": _number})


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

    def gain(self, confidence: float, p_value: float, method: str = EXPANDED) -> Gain:
        """Sum up a figure that is a gain: bounds, share of better samples, and the p value."""
        low, high = self.bounds(confidence, method) or (-1.0, 1.0)
        return Gain(
            value=self.value,
            low=low,
            high=high,
            probability_better=float(((self.values > 0) + 0.5 * (self.values == 0)).mean()),
            resamples=len(self.values),
            seed=self.seed,
            confidence=confidence,
            method=method,
            images=self.images,
            p_value=p_value,
        )


def fewest_images(confidence: float) -> int:
    """How many images it takes at least: that all favour one of two equal models is this unlikely.

    With fewer, every image can favour a model and prove nothing, whatever the method.
    """
    return max(2, math.ceil(round(-math.log2(1 - confidence), 9)))


def measure_gain(
    challenger: Detections,
    champion: Detections,
    metric: str,
    *,
    direction: str = "maximize",
    resamples: int,
    seed: int,
    confidence: float,
) -> Gain:
    """How much better the challenger is, the same for the same seed.

    Raises:
        ValueError: they are not of the same images, classes and true boxes, or the metric is
            unknown.
    """
    gains = resampled_gains(
        challenger, champion, metric, direction=direction, resamples=resamples, seed=seed
    )
    by_chance = p_value(
        challenger, champion, metric, direction=direction, draws=resamples, seed=seed
    )
    return gains.gain(confidence, by_chance)


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
    """The gain of the challenger on the images and on each sample; `measure_gain` sums it up.

    Raises:
        ValueError: see `measure_gain`.
    """
    if fault := unpaired(challenger, champion):
        raise ValueError(fault)
    own, other = _values((challenger, champion), metric, resamples, seed)
    sign = sign_of(direction)
    gains = np.round(sign * own - sign * other, _DIGITS)  # equal ones give 0, not -0
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
        now = min(left, max(1, _DRAWS_AT_ONCE // images))
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
    """The percentile, below `level`, that makes up for few images."""
    return float(ndtr(math.sqrt(images / (images - 1)) * stdtrit(images - 1, level)))
