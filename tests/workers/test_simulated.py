"""The simulated trainer's curve and its checks."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.training import Keeper, continued, make_job

from hpo.errors import WeightsError
from hpo.evaluation.detections import OVERLAPS, Detections
from hpo.trainer import TrainSpec
from workers.simulated.trainer import NOISE, OPTIMUM, SimulatedTrainer, asymptote, epoch_metrics

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.trainer import Evaluation

BEST = {"x": 0.7, "y": 0.01, "kind": "b", "depth": 5}


def spec(**changes: Any) -> TrainSpec:
    fields: dict[str, Any] = {
        "model": "simulated",
        "train": {},
        "searched": {},
        "epochs": 5,
        "metric": "mAP50",
        "direction": "maximize",
        "data": None,
    }
    return TrainSpec(**{**fields, **changes})


def test_the_documented_optimum_is_the_best_of_a_fine_grid() -> None:
    """No point of a grid over the whole space is better than the documented one."""
    xs = [n / 20 for n in range(21)]
    ys = [10 ** -(n / 5) for n in range(21)]
    shapes = [("a", 2), *(("b", depth) for depth in range(1, 9))]
    grid = [
        {"x": x, "y": y, "kind": kind, "depth": depth}
        for x, y, (kind, depth) in itertools.product(xs, ys, shapes)
    ]
    assert asymptote(BEST) == pytest.approx(OPTIMUM)
    assert max(map(asymptote, grid)) <= OPTIMUM
    assert max(grid, key=asymptote) == pytest.approx(BEST)


def test_the_curve_rises_to_its_asymptote() -> None:
    """Later epochs are better but for noise, and the last tends to the asymptote."""
    curve = [epoch_metrics(BEST, 0, epoch)["mAP50"] for epoch in range(1, 41)]
    assert all(later > earlier - 2 * NOISE for earlier, later in itertools.pairwise(curve))
    assert curve[-1] == pytest.approx(OPTIMUM, abs=2 * NOISE)


def test_figures_depend_on_params_seed_and_epoch_only() -> None:
    """The same three give the same figures; another seed gives other noise."""
    assert epoch_metrics(BEST, 1, 3) == epoch_metrics(dict(reversed(BEST.items())), 1, 3)
    assert epoch_metrics(BEST, 1, 3) != epoch_metrics(BEST, 2, 3)


def test_each_epoch_depends_on_the_one_before(tmp_path: Path) -> None:
    """A training continued from an altered state has other figures ever after: it can be seen."""
    job = make_job(tmp_path / "run", params=BEST, epochs=6, checkpoint_every=2)
    whole = Keeper(tmp_path / "kept")
    SimulatedTrainer().train(job, whole)
    expected = [epoch_metrics(BEST, 0, epoch)["mAP50"] for epoch in range(1, 7)]
    assert whole.values("mAP50") == expected
    state = whole.kept[2].state
    saved = json.loads(state.read_text())
    saved["state"]["digest"] = "another" + saved["state"]["digest"]
    state.write_text(json.dumps(saved))
    altered = Keeper(tmp_path / "kept-altered")
    SimulatedTrainer().train(continued(job, whole.kept[2], tmp_path / "altered"), altered)
    pairs = zip(altered.values("mAP50"), expected[2:], strict=True)
    assert all(one != other for one, other in pairs)


def test_every_metric_that_may_be_the_objective_is_reported() -> None:
    """`describe` promises no metric that an epoch lacks."""
    assert set(SimulatedTrainer().describe().metrics) <= set(epoch_metrics({}, 0, 1))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"train": {"epoch_seconds": 1}}, "train.epoch_seconds: unknown argument (did you mean"),
        ({"train": {"epoch_s": -1.0}}, "train.epoch_s: -1.0 is below the smallest value 0"),
        ({"train": {"epoch_s": "slow"}}, "train.epoch_s: 'slow' is not a number"),
        ({"train": {"epoch_s": float("nan")}}, "train.epoch_s: nan is not a number"),
        ({"train": {"epochs": 3}}, "train.epochs: set budget.epochs instead"),
        ({"train": {"kind": "c"}}, "train.kind: 'c' is not one of 'a', 'b'"),
        ({"searched": {"x": (0.0, 2.0)}}, "search_space.x: 2.0 is above the largest value 1"),
        ({"searched": {"depth": (True, 3)}}, "search_space.depth: True is not a whole number"),
        ({"train": {"x": 0.1}, "searched": {"x": (0.0, 1.0)}}, "search_space.x: it is fixed"),
        ({"metric": "mAP"}, "objective.metric: unknown metric 'mAP' (known: mAP50"),
        ({"metric": "loss"}, "objective.direction: loss is better when smaller"),
    ],
)
def test_a_fault_is_named_with_its_key(changes: dict[str, Any], fault: str) -> None:
    """Each wrong value gives one sentence that starts with the key."""
    faults = SimulatedTrainer().check(spec(**changes))
    assert [text for text in faults if text.startswith(fault)], faults


def test_a_sound_study_has_no_fault() -> None:
    """The built-in space and fixed arguments pass."""
    searched = {"x": (0.0, 1.0), "y": (1e-4, 1.0), "kind": ("a", "b"), "depth": (1, 8)}
    assert SimulatedTrainer().check(spec(searched=searched, train={"epoch_s": 0})) == []


def evaluated(folder: Path, split: str = "test", **weights: Any) -> Evaluation:
    """The evaluation of weights with this content."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "weights.json"
    file.write_text(json.dumps(weights))
    return SimulatedTrainer().evaluate(file, make_job(folder / "run"), split)


@pytest.mark.parametrize("split", ["val", "test"])
def test_detections_are_about_as_good_as_wanted(tmp_path: Path, split: str) -> None:
    """Their mAP50 is within 0.05 of the quality and, on average, that much exactly."""
    means = []
    for quality in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        found = [
            evaluated(tmp_path / f"{number}", split, quality=quality, copy=number).metrics["mAP50"]
            for number in range(12)
        ]
        assert max(abs(value - quality) for value in found) < 0.05
        means.append(sum(found) / len(found))
        assert means[-1] == pytest.approx(quality, abs=0.015)
    assert means == sorted(set(means))


def test_other_weights_of_one_quality_find_other_boxes(tmp_path: Path) -> None:
    """Equal models differ by chance, as real ones do; the same file never does."""
    values = {evaluated(tmp_path, quality=0.5, copy=number).metrics["mAP50"] for number in range(8)}
    assert len(values) > 4
    again = [evaluated(tmp_path, quality=0.5, copy=0).metrics for _ in range(2)]
    assert again[0] == again[1]


def test_two_models_meet_the_same_easy_and_hard_images(tmp_path: Path) -> None:
    """What one finds in an image goes with what another finds there: pairing pays."""
    found = []
    for number in range(2):
        path = evaluated(tmp_path, quality=0.5, copy=number).detections
        assert path is not None
        detections = Detections.load(path)
        found.append(np.bincount(detections.image[detections.correct[:, 0]], minlength=100))
    true = np.bincount(detections.true_image, minlength=100)
    shares = [counts / true for counts in found]
    assert np.corrcoef(*shares)[0, 1] > 0.5


def test_correct_is_what_the_boxes_say(tmp_path: Path) -> None:
    """The overlaps of the made-up boxes are those that they are counted by."""
    path = evaluated(tmp_path, quality=0.6).detections
    assert path is not None
    found = Detections.load(path)
    for at, box in enumerate(found.box):
        same = (found.true_image == found.image[at]) & (found.true_kind == found.kind[at])
        true = found.true_box[same]
        sides = np.minimum(box[2:], true[:, 2:]) - np.maximum(box[:2], true[:, :2])
        shared = sides.clip(0).prod(1)
        joined = (box[2:] - box[:2]).prod() + (true[:, 2:] - true[:, :2]).prod(1) - shared
        best = (shared / joined).max(initial=0)
        assert found.correct[at].sum() == sum(best >= at_least for at_least in OVERLAPS)


def test_weights_of_a_training_are_as_good_as_their_epoch(tmp_path: Path) -> None:
    """An evaluation's mAP50 is near that of the epoch that the weights were kept from."""
    told = epoch_metrics(BEST, 0, 6)["mAP50"]
    evaluation = evaluated(tmp_path, params=BEST, seed=0, epoch=6)
    assert evaluation.metrics["mAP50"] == pytest.approx(told, abs=0.05)
    assert evaluation.metrics["loss"] == 1 - evaluation.metrics["mAP50"]


def test_a_latency_can_be_written_into_the_weights(tmp_path: Path) -> None:
    """It is what tests of a limit set; else it is made up, and always marked as such."""
    slow = evaluated(tmp_path, quality=0.5, latency_ms=250)
    assert slow.latency_ms == {"median": 250.0, "p95": 325.0}
    usual = evaluated(tmp_path, quality=0.5)
    assert 4 <= usual.latency_ms["median"] <= 6
    assert "SIMULATED" in slow.device
    assert "SIMULATED" in usual.device


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"quality": 1.5}', '{"quality": NaN}', '{"quality": "good"}', '{"quality": 0.5'],
)
def test_weights_that_say_nothing_sensible_are_refused(tmp_path: Path, content: str) -> None:
    """Each is a WeightsError that names the file."""
    file = tmp_path / "weights.json"
    file.write_text(content)
    with pytest.raises(WeightsError, match=r"weights\.json: no weights of a simulated training"):
        SimulatedTrainer().evaluate(file, make_job(tmp_path / "run"), "val")
