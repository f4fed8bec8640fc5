"""The permutation test: exact for equal models, whatever the number of images."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.found import Drawn, draw, keep, without_truth

from hpo.evaluation.average_precision import figures
from hpo.evaluation.significance import PermutedGain, p_value
from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hpo.evaluation.detections import Detections

THREE = Drawn(images=3, objects=4)
FORTY = Drawn(images=40)


def every_swap(images: int) -> NDArray[Any]:
    """(2**n, n) each way to swap; the first swaps none."""
    return np.array(list(product((0, 1), repeat=images)))


def mixed(one: Detections, other: Detections, swapped: Sequence[int]) -> Detections:
    """Literally: the images that are swapped as the other model saw them."""
    images = [index for index, other_way in enumerate(swapped) if other_way]
    own = keep(one, ~np.isin(one.image, images))
    theirs = keep(other, np.isin(other.image, images))
    joined = {
        name: np.concatenate((getattr(own, name), getattr(theirs, name)))
        for name in ("image", "box", "confidence", "kind", "correct")
    }
    whole = replace(own, **joined)
    return keep(whole, np.argsort(whole.image, kind="stable"))


@pytest.mark.parametrize("metric", DETECTION_METRICS)
def test_every_swap_of_three_images_is_the_literal_one(metric: str) -> None:
    """The figures of all eight mixtures of two models, less those of their opposites."""
    one, other = draw(1, THREE), draw(1, replace(THREE, found=0.5), model=1)
    swaps = every_swap(3)
    literal = [
        figures(mixed(one, other, swap)).metrics[metric]
        - figures(mixed(other, one, swap)).metrics[metric]
        for swap in swaps
    ]
    assert PermutedGain(one, other, metric).gains(swaps) == pytest.approx(literal, abs=1e-12)
    assert len(set(np.round(literal, 9))) > 4


def test_it_is_the_rank_among_all_swaps() -> None:
    """Many draws of a few images come close to the share of all swaps with at least the gain."""
    for seed in range(6):
        one, other = draw(seed, THREE), draw(seed, THREE, model=1)
        gains = PermutedGain(one, other, "mAP50").gains(every_swap(3))
        share = (gains >= gains[0] - 1e-12).mean()
        found = p_value(one, other, "mAP50", draws=10_000, seed=0)
        assert found == pytest.approx(share, abs=0.02)


def test_equal_confidences_do_not_tell_the_models_apart() -> None:
    """Whatever was swapped before, all swaps together give the same gains: so the rank is exact."""
    drawn = Drawn(images=5, objects=8, wrong=12, classes=1, decimals=1)
    one, other = draw(2, drawn), draw(2, drawn, model=1)
    swaps = every_swap(5)
    gains = np.sort(PermutedGain(one, other, "mAP50-95").gains(swaps))
    for swap in swaps[1::6]:
        before, after = mixed(one, other, swap), mixed(other, one, swap)
        again = np.sort(PermutedGain(before, after, "mAP50-95").gains(swaps))
        assert again == pytest.approx(gains, abs=1e-12)


@pytest.mark.parametrize("metric", DETECTION_METRICS)
def test_the_same_model_is_all_luck(metric: str) -> None:
    """Every swap gives the same gain, none; so do two that find nothing and a split of nothing."""
    one = draw(1)
    nothing = keep(one, np.zeros(0, dtype=np.int64))
    empty = without_truth(nothing, np.zeros(0, dtype=np.int64))
    for model in (one, nothing, empty):
        assert p_value(model, model, metric, draws=50, seed=0) == 1


def test_a_clear_winner_is_hardly_luck() -> None:
    """No swap comes near; what was seen counts as one draw, so it is never 0. The loser has 1."""
    better, worse = draw(1, FORTY), draw(1, replace(FORTY, found=0.2), model=1)
    assert p_value(better, worse, "mAP50", draws=2000, seed=0) == 1 / 2001
    assert p_value(worse, better, "mAP50", draws=2000, seed=0) == 1
    least = p_value(worse, better, "mAP50", direction="minimize", draws=2000, seed=0)
    assert least == 1 / 2001


@pytest.mark.parametrize("images", [1, 2, 4])
def test_few_images_cannot_rule_out_luck(images: int) -> None:
    """All of them favour one of two equal models in one case out of 2^n."""
    drawn = Drawn(images=images, objects=6)
    found = p_value(
        draw(3, drawn), draw(3, replace(drawn, found=0.0), model=1), "mAP50", draws=4000, seed=0
    )
    assert found == pytest.approx(0.5**images, abs=0.02)


def test_a_seed_repeats_it() -> None:
    """The same to the last bit for the same seed; another one draws other swaps."""
    one, other = draw(1, FORTY), draw(1, FORTY, model=1)
    found = [p_value(one, other, "mAP50", draws=200, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_an_odd_number_of_draws_gets_its_opposite() -> None:
    """Each draw has one: 99 are as good as 100."""
    one, other = draw(1, FORTY), draw(1, FORTY, model=1)
    odd, even = (p_value(one, other, "mAP50", draws=draws, seed=0) for draws in (99, 100))
    assert odd == even


def test_equal_models_come_out_evenly() -> None:
    """The p values of equal models are spread over all of 0 to 1; none is favoured."""
    drawn = Drawn(images=10)
    found = np.array(
        [
            p_value(draw(seed, drawn), draw(seed, drawn, model=1), "mAP50", draws=99, seed=seed)
            for seed in range(400)
        ]
    )
    for level in (0.05, 0.2, 0.5, 0.8):
        error = np.sqrt(level * (1 - level) / len(found))
        assert (found <= level).mean() == pytest.approx(level, abs=3 * error)
