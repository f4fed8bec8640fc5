"""The paired bootstrap over images: what it says, and what it never says."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.found import Drawn, draw, keep, without_truth

from hpo.evaluation.average_precision import figures
from hpo.evaluation.significance import (
    EXPANDED,
    PERCENTILE,
    Gain,
    Resampled,
    fewest_images,
    interval,
    measure_gain,
    p_value,
    resampled_gains,
    unpaired,
)
from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from hpo.evaluation.detections import Detections

FORTY = Drawn(images=40)


def compared(one: Detections, other: Detections, metric: str = "mAP50", **given: object) -> Gain:
    asked = {"resamples": 200, "seed": 0, "confidence": 0.95} | given
    return measure_gain(one, other, metric, **asked)  # type: ignore[arg-type] - by name


@pytest.mark.parametrize("metric", DETECTION_METRICS)
def test_the_value_is_the_difference_of_the_figures(metric: str) -> None:
    """On the images themselves, between its bounds, with everything that repeats it."""
    one, other = draw(1, FORTY), draw(1, replace(FORTY, found=0.5), model=1)
    found = compared(one, other, metric, resamples=100)
    assert found.p_value == p_value(one, other, metric, draws=100, seed=0)
    gain = figures(one).metrics[metric] - figures(other).metrics[metric]
    assert found.value == pytest.approx(gain, abs=1e-9)
    assert found.low < found.value < found.high
    assert (found.resamples, found.seed, found.confidence) == (100, 0, 0.95)
    assert (found.method, found.images) == (EXPANDED, 40)


def test_a_seed_repeats_it() -> None:
    """The same seed gives the same figures to the last bit, another one others."""
    one, other = draw(1, FORTY), draw(1, FORTY, model=1)
    assert compared(one, other) == compared(one, other)
    assert compared(one, other).low != compared(one, other, seed=1).low


def test_the_other_way_round_is_the_same_with_the_sign_turned() -> None:
    """Both models see the same resamples; a metric to minimize turns the sign."""
    one, other = draw(1, FORTY), draw(1, FORTY, model=1)
    here, there = compared(one, other), compared(other, one)
    turned = (-there.value, -there.high, -there.low)
    assert (here.value, here.low, here.high) == pytest.approx(turned, abs=1e-12)
    # The same swaps: what is at least the gain here is at most the loss there
    assert min(here.p_value, there.p_value) < 0.5 < max(here.p_value, there.p_value)
    assert here.probability_better == pytest.approx(1 - there.probability_better)
    assert compared(one, other, direction="minimize") == there


def test_the_same_model_never_gains() -> None:
    """No gain, no width, and neither is better."""
    found = compared(draw(1, FORTY), draw(1, FORTY))
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert (found.probability_better, found.p_value) == (0.5, 1)


def stacked(*models: Detections) -> Detections:
    """Each model's only class as a class of its own, on the same images."""
    kinds = [np.full(len(one.kind), number) for number, one in enumerate(models)]
    true_kinds = [np.full(len(one.true_kind), number) for number, one in enumerate(models)]
    joined = {
        name: np.concatenate([getattr(one, name) for one in models])
        for name in ("image", "box", "confidence", "correct", "true_image", "true_box")
    }
    names = tuple(f"class {number}" for number in range(len(models)))
    return replace(
        models[0], names=names, kind=np.concatenate(kinds), true_kind=np.concatenate(true_kinds),
        **joined,
    )  # fmt: skip


def test_the_same_figures_in_another_order_are_no_gain() -> None:
    """Two classes that swap their figures leave a sum that differs in its last bits only."""
    drawn = replace(FORTY, classes=1)
    left, right, other = draw(1, drawn), draw(1, drawn, model=1), draw(2, drawn)
    found = compared(stacked(left, other, right), stacked(right, other, left))
    assert (found.value, found.low, found.high, found.probability_better) == (0, 0, 0, 0.5)


def test_a_shared_difficulty_does_not_widen_it() -> None:
    """A model against one that differs in a few images has a far smaller width than each alone."""
    one = draw(1, FORTY)
    worse = keep(one, one.image > 1)
    found = compared(one, worse)
    low, high = interval(one, "mAP50", resamples=200, seed=0, confidence=0.95)
    assert found.high - found.low < 0.5 * (high - low)


def test_a_model_that_is_much_better_is_surely_so() -> None:
    """Its lower bound is above 0 and every resample agrees."""
    found = compared(draw(1, FORTY), draw(1, replace(FORTY, found=0.2), model=1))
    assert found.low > 0.1
    assert found.probability_better == 1.0


def test_a_model_that_finds_nothing_is_worse() -> None:
    """Detections may be absent on one side or on both."""
    one = draw(1, FORTY)
    nothing = keep(one, np.zeros(0, dtype=np.int64))
    assert compared(nothing, one).high < 0
    assert asdict(compared(nothing, nothing)) == asdict(compared(one, one))


def test_a_split_without_true_boxes_shows_nothing() -> None:
    """Every figure is 0, and so is every difference."""
    one, other = (
        without_truth(keep(it, ~it.correct.any(axis=1)), np.zeros(0, dtype=np.int64))
        for it in (draw(1, FORTY), draw(1, FORTY, model=1))
    )
    found = compared(one, other)
    assert (found.value, found.low, found.high, found.probability_better) == (0, 0, 0, 0.5)


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_too_few_images_say_nothing(images: int) -> None:
    """With fewer than five at 95%, all can favour one of two equal models: no bound is given."""
    drawn = Drawn(images=images, objects=5)
    found = compared(draw(3, drawn), draw(3, replace(drawn, found=0.1), model=1))
    assert found.value > 0
    assert (found.low, found.high) == (-1, 1)
    alone = interval(draw(3, drawn), "mAP50", resamples=50, seed=0, confidence=0.95)
    assert alone == (0, 1)


def test_how_few_images_are_too_few_follows_from_the_confidence() -> None:
    """So many that chance alone favours one model in all of them at most that often."""
    assert [fewest_images(one) for one in (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)] == [
        2,
        2,
        4,
        5,
        7,
        10,
    ]


def test_other_images_are_not_compared() -> None:
    """Images, classes and true boxes must be the same, or it is refused in words."""
    one = draw(1)
    assert not unpaired(one, draw(1, model=1))
    with pytest.raises(ValueError, match="other images"):
        compared(one, replace(one, images=(*one.images[:-1], "else.jpg")))
    with pytest.raises(ValueError, match="classes differ"):
        compared(one, replace(one, names=("a", "b", "c")))
    with pytest.raises(ValueError, match="true boxes of their images differ"):
        compared(one, without_truth(one, np.arange(3, len(one.true_kind))))


def test_bounds_of_a_mean_are_those_of_students_t() -> None:
    """The expanded percentile of normal means of ten is the t interval, the plain one is less."""
    from scipy.stats import norm, t

    values = np.random.default_rng(0).normal(0, 1, 10)
    draws = np.random.default_rng(1).choice(values, (200_000, 10)).mean(axis=1)
    found = Resampled(float(values.mean()), draws, 10, seed=0)
    expanded, plain = found.bounds(0.95), found.bounds(0.95, PERCENTILE)
    assert expanded is not None
    assert plain is not None
    half = values.std(ddof=1) / math.sqrt(10)
    exact = values.mean() + np.array([-1, 1]) * t.ppf(0.95, 9) * half
    narrow = values.mean() + np.array([-1, 1]) * norm.ppf(0.95) * values.std() / math.sqrt(10)
    assert expanded == pytest.approx(exact, abs=0.05)
    assert plain == pytest.approx(narrow, abs=0.05)
    assert expanded[0] < plain[0] < plain[1] < expanded[1]


def test_many_images_make_both_methods_one() -> None:
    """What is mended at ten images is gone at a thousand."""
    draws = np.random.default_rng(1).normal(0, 1, 100_000)
    found = Resampled(0.0, draws, 1000, seed=0)
    assert found.bounds(0.95) == pytest.approx(found.bounds(0.95, PERCENTILE), abs=0.01)


def test_resamples_are_of_images_not_of_boxes() -> None:
    """A sample of images in which only one image differs has the difference's binomial spread."""
    drawn = Drawn(images=20, classes=1, objects=2, wrong=0, found=1.0)
    one = draw(4, drawn)
    one = replace(one, correct=np.ones_like(one.correct))
    there = int(one.true_image[0])
    gains = resampled_gains(one, keep(one, one.image != there), "mAP50", resamples=4000, seed=0)
    missed = (gains.values == 0).mean()
    assert missed == pytest.approx((1 - 1 / 20) ** 20, abs=0.03)
