"""How often two equal models would show such a gain by luck, by swapping them; knows no rules.

For each draw every image's detections change places between the two models with probability 1/2.
Where the models are equal, what was seen is one such draw like any other, so that its rank among
them is a p value that keeps its word for any number of images. What was seen counts among the
draws, hence the ones added: B. Phipson, G. Smyth, Permutation P-values Should Never Be Zero (2010),
https://doi.org/10.2202/1544-6115.1585, https://arxiv.org/abs/1603.05766.

Both models lie side by side in one `Resampler` as images of a split twice as large: a swap is a
sample that holds each image once, as one model or the other saw it. Equal confidences stand in the
order of their images, whichever model they come from; else a swap would not undo a swap.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.evaluation.resampled import Resampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hpo.evaluation.detections import Detections

_BY_DETECTION = ("image", "box", "confidence", "kind", "correct")
_BY_TRUE_BOX = ("true_image", "true_box", "true_kind")
# Sums of the same numbers in another order differ in their last bits: a tie all the same
_TINY = 1e-12
# Swaps of images in one array
_AT_ONCE = 2**21


class Swapper:
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
    swapper = Swapper(challenger, champion, metric)
    sign = 1 if direction == "maximize" else -1
    seen = sign * float(swapper.gains(np.zeros((1, swapper.images)))[0])
    rng = np.random.default_rng(seed)
    pairs, as_large = (draws + 1) // 2, 0
    step = max(1, _AT_ONCE // swapper.images)
    for first in range(0, pairs, step):
        gains = swapper.gains(rng.integers(0, 2, (min(step, pairs - first), swapper.images)))
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
