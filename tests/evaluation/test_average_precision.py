"""Figures recomputed from detections are those that Ultralytics gives for them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.found import Drawn, draw, keep, repeated, without_truth

from hpo.evaluation.average_precision import figures
from hpo.evaluation.resampling import Resampler
from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from ultralytics.utils.metrics import DetMetrics

    from hpo.evaluation.detections import Detections

DRAWN = st.builds(
    Drawn,
    images=st.integers(1, 25),
    classes=st.integers(1, 5),
    objects=st.floats(0, 4),
    wrong=st.floats(0, 6),
    found=st.floats(0, 1),
)
TIES = st.builds(Drawn, classes=st.integers(1, 3), decimals=st.integers(0, 2))
SEEDS = st.integers(0, 2**20)


def ultralytics(found: Detections) -> DetMetrics:
    """Its own figures of the same rows, by the class that its validator uses."""
    from ultralytics.utils.metrics import DetMetrics

    metrics = DetMetrics(dict(enumerate(found.names)))
    metrics.update_stats(
        {
            "tp": found.correct, "conf": found.confidence, "pred_cls": found.kind,
            "target_cls": found.true_kind, "target_img": np.unique(found.true_kind),
            "im_name": "all.jpg",
        }
    )  # fmt: skip
    metrics.process()
    return metrics


def means(found: Detections) -> dict[str, float]:
    precision, recall, map50, map50_95 = ultralytics(found).mean_results()
    values = {"mAP50": map50, "mAP50-95": map50_95, "precision": precision, "recall": recall}
    return {name: float(value) for name, value in values.items()}


def by_class(found: Detections) -> dict[str, dict[str, float]]:
    metrics = ultralytics(found)
    keys = ("precision", "recall", "AP50", "AP50-95")
    return {
        found.names[kind]: dict(zip(keys, map(float, metrics.class_result(row)), strict=True))
        for row, kind in enumerate(metrics.ap_class_index)
    }


def assert_equal_to_ultralytics(found: Detections) -> None:
    own = figures(found)
    assert own.metrics == pytest.approx(means(found), abs=1e-6)
    theirs = by_class(found)
    assert own.per_class.keys() == theirs.keys()
    for name, values in theirs.items():
        assert own.per_class[name] == pytest.approx(values, abs=1e-6)


@pytest.mark.training
@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, drawn=DRAWN | TIES)
def test_every_figure_is_that_of_ultralytics(seed: int, drawn: Drawn) -> None:
    """To 1e-6, of the set and of each class; equal confidences are sorted as Ultralytics does."""
    assert_equal_to_ultralytics(draw(seed, drawn))


@pytest.mark.training
def test_nothing_found_is_zero() -> None:
    """A model without a detection has every figure 0, and its classes are there."""
    found = keep(draw(1), np.zeros(0, dtype=np.int64))
    assert_equal_to_ultralytics(found)
    assert figures(found).metrics == dict.fromkeys(DETECTION_METRICS, 0.0)
    assert len(figures(found).per_class) == 3


@pytest.mark.training
def test_nothing_to_find_is_zero() -> None:
    """Without a true box every figure is 0 and no class is listed."""
    found = without_truth(draw(1), np.zeros(0, dtype=np.int64))
    assert_equal_to_ultralytics(found)
    assert figures(found).metrics == dict.fromkeys(DETECTION_METRICS, 0.0)
    assert figures(found).per_class == {}


@pytest.mark.training
def test_a_class_that_is_never_there_does_not_count() -> None:
    """What is predicted of a class without true boxes changes nothing but is no class's figure."""
    found = draw(2)
    absent = without_truth(found, found.true_kind != 1)
    assert_equal_to_ultralytics(absent)
    assert list(figures(absent).per_class) == ["class 0", "class 2"]
    assert figures(keep(absent, absent.kind != 1)).metrics == figures(absent).metrics


def test_all_found_alone_is_the_best() -> None:
    """A model that finds everything and nothing else has AP 0.995 by the 101 points."""
    found = draw(3, Drawn(found=1.0, wrong=0.0))
    best = figures(replace(found, correct=np.ones_like(found.correct)))
    assert best.metrics["mAP50"] == pytest.approx(0.995)
    assert best.metrics["recall"] == 1.0


@pytest.mark.training
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, drawn=DRAWN)
def test_a_sample_has_the_figures_of_images_literally_repeated(seed: int, drawn: Drawn) -> None:
    """To 1e-6 of Ultralytics' own for the repeated rows; an image left out is not there."""
    found = draw(seed, drawn)
    images = len(found.images)
    even = np.full(images, 1 / images)
    counts = np.random.default_rng(seed).multinomial(images, even, size=4)
    wanted = [means(repeated(found, count)) for count in counts]
    for metric in DETECTION_METRICS:
        values = Resampler(found, metric).values(counts)
        assert values == pytest.approx([one[metric] for one in wanted], abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, drawn=TIES)
def test_each_image_once_has_the_figures_of_all(seed: int, drawn: Drawn) -> None:
    """Equal confidences included."""
    found = draw(seed, drawn)
    once = np.ones((1, len(found.images)), dtype=np.int64)
    for metric, value in figures(found).metrics.items():
        assert Resampler(found, metric).values(once) == pytest.approx([value], abs=1e-6)


@pytest.mark.training
def test_recall_points_that_are_met_exactly_count_as_in_ultralytics() -> None:
    """With 1 to 100 true boxes recalls fall on the 101 points, in floating point or beside."""
    found = draw(8, Drawn(images=1, classes=1, objects=150, wrong=20, found=0.6))
    assert len(found.true_kind) > 110
    for boxes in range(1, 111):
        hits = np.flatnonzero(found.correct[:, 0])[:boxes]
        rows = np.union1d(hits, np.flatnonzero(~found.correct[:, 0]))
        few = without_truth(keep(found, rows), np.arange(boxes))
        wanted = means(few)["mAP50"]
        assert Resampler(few, "mAP50").values(np.array([[1]])) == pytest.approx([wanted], abs=1e-9)


def test_samples_are_the_same_in_any_number_at_once() -> None:
    """Values do not depend on how many are computed together."""
    found = draw(5, Drawn(images=300))
    counts = np.random.default_rng(5).multinomial(300, np.full(300, 1 / 300), size=700)
    resampler = Resampler(found, "mAP50-95")
    parts = np.concatenate([resampler.values(part) for part in np.array_split(counts, 7)])
    assert np.array_equal(parts, resampler.values(counts))
    assert len(np.unique(parts)) > 600


def test_a_sample_without_a_true_box_is_zero() -> None:
    """As Ultralytics says of a split without labels; nothing is divided by zero."""
    found = draw(6)
    labelled = int(found.true_image[0])
    bare = keep(without_truth(found, found.true_image == labelled), found.image == labelled)
    counts = np.full((1, len(found.images)), 2)
    counts[0, labelled] = 0
    for metric in DETECTION_METRICS:
        assert Resampler(bare, metric).values(counts).tolist() == [0.0]


def test_an_unknown_metric_is_refused() -> None:
    """Only what follows from detections can be resampled."""
    with pytest.raises(ValueError, match="metric loss, expected one of mAP50, mAP50-95"):
        Resampler(draw(1), "loss")


def test_more_hits_than_true_boxes_are_refused() -> None:
    """Detections that no matching can give have no recall."""
    found = draw(1)
    with pytest.raises(ValueError, match="more hits than true boxes of class 0 in an image"):
        Resampler(without_truth(found, (found.true_kind != 0) | (found.true_image > 5)), "mAP50")


def test_classes_of_a_sample_are_nan_where_they_are_not_drawn() -> None:
    """An absent class is left out of the mean, not counted as 0."""
    found = draw(7)
    counts = np.zeros((1, len(found.images)), dtype=np.int64)
    image = int(found.true_image[0])
    counts[0, image] = 1
    there = set(found.true_kind[found.true_image == image].tolist())
    areas = Resampler(found, "mAP50").by_class(counts)[0]
    assert {kind for kind, area in enumerate(areas) if not math.isnan(area)} == there
