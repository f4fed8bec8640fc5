"""What an evaluation of a real detector records, held against Ultralytics' own figures."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.training import TRAIN, in_torch, install_trainer

from hpo.evaluation.average_precision import figures
from hpo.evaluation.detections import OVERLAPS, Detections
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from pathlib import Path

    from support.training import Detector

    from hpo.trainer import Evaluation, Job

# Heights and widths: beside each other in a batch they are padded
SIZES = ((64, 64), (64, 96), (96, 64), (80, 64), (50, 70))
TEST = "images/test/"
TWICE = TEST + "a/3.png"
NAMES = sorted([f"{TEST}{folder}/{n}.png" for folder in "ab" for n in range(10)])


def draw_test_split(root: Path) -> Path:
    """Images of several sizes, in two folders with equal file names, one listed twice.

    Each has up to three squares and discs, as those that the detector was trained on; one has
    none.
    """
    rng = random.Random(1)
    for place in NAMES:
        image, label = root / place, root / place.replace("images", "labels").replace("png", "txt")
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        height, width = SIZES[rng.randrange(len(SIZES))]
        picture, rows = Image.new("RGB", (width, height), (30, 30, 30)), []
        draw = ImageDraw.Draw(picture)
        for _ in range(0 if place == NAMES[0] else rng.randint(1, 3)):
            side, kind = rng.randint(14, 26), rng.randint(0, 1)
            x, y = rng.randint(0, width - side), rng.randint(0, height - side)
            shape = draw.ellipse if kind else draw.rectangle
            shape((x, y, x + side, y + side), fill=(220, 60, 60) if kind else (60, 220, 60))
            centre = f"{(x + side / 2) / width} {(y + side / 2) / height}"
            rows.append(f"{kind} {centre} {side / width} {side / height}\n")
        picture.save(image)
        label.write_text("".join(rows))
    (root / "test.txt").write_text("".join(f"./{place}\n" for place in [TWICE, *NAMES]))
    data = root / "data.yaml"
    sources = "train: images/test\nval: images/test\ntest: test.txt\n"
    data.write_text(f"path: {root}\n{sources}names: [square, disc]\n")
    return data


@dataclasses.dataclass(frozen=True)
class Bench:
    """A trained detector and a test split that it was not trained on."""

    detector: Detector
    data: Path

    def evaluate(self, run_dir: Path, **train: Any) -> tuple[Evaluation, Detections]:
        """Its evaluation on the test split, with changed arguments, and what it found."""
        evaluation = self.detector.process.evaluate(
            self.detector.weights, self.job(run_dir, **train), "test"
        )
        assert evaluation.detections is not None
        return evaluation, Detections.load(evaluation.detections)

    def job(self, run_dir: Path, **train: Any) -> Job:
        return dataclasses.replace(
            self.detector.job(run_dir, train={**TRAIN, **train}), data=self.data
        )


@pytest.fixture(scope="module")
def bench(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(detector, draw_test_split(tmp_path_factory.mktemp("test-split")))


@pytest.fixture(scope="module")
def evaluated(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Detections]:
    """As the training was."""
    return bench.evaluate(tmp_path_factory.mktemp("evaluated") / "run")


# Ultralytics alone, on the same weights and images; then its formula on our file
ULTRALYTICS = """
import numpy
from ultralytics import YOLO
from ultralytics.utils import torch_utils
from ultralytics.utils.metrics import ap_per_class
torch_utils.NUM_THREADS = 1  # as the trainer's process; another number changes the last bits
weights, data, file, out = sys.argv[1:]
told = YOLO(weights).val(
    data=data, split="test", imgsz=64, batch=8, device="cpu", plots=False, project=out
)
def table(classes, p, r, ap):
    rows = zip(ap[:, 0], ap.mean(1), p, r)
    return {str(int(kind)): list(map(float, row)) for kind, row in zip(classes, rows)}
own = table(told.box.ap_class_index, told.box.p, told.box.r, told.box.all_ap)
kept = numpy.load(file)
_, _, p, r, _, ap, classes, *_ = ap_per_class(
    kept["correct"], kept["confidence"], kept["kind"], kept["true_kind"]
)
print(json.dumps([told.results_dict, own, table(classes, p, r, ap)]))
"""


@pytest.fixture(scope="module")
def ultralytics(
    bench: Bench,
    evaluated: tuple[Evaluation, Detections],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """(its figures, its figures by class, its formula's by class on the stored detections)."""
    out = tmp_path_factory.mktemp("ultralytics")
    file = evaluated[0].detections
    return in_torch(ULTRALYTICS, bench.detector.weights, bench.data, file, out)


def by_number(evaluation: Evaluation) -> dict[str, list[float]]:
    order = ("AP50", "AP50-95", "precision", "recall")
    numbers = {"square": "0", "disc": "1"}
    return {
        numbers[name]: [one[key] for key in order] for name, one in evaluation.per_class.items()
    }


def test_the_figures_are_those_that_ultralytics_tells(
    evaluated: tuple[Evaluation, Detections], ultralytics: Any
) -> None:
    """Its own validation, in a process without this project, has the same to 1e-6."""
    told, by_class, _ = ultralytics
    own = {name: told[f"metrics/{name}(B)"] for name in evaluated[0].metrics}
    assert own["mAP50"] > 0.2, "a detector that finds nothing would prove nothing"
    assert evaluated[0].metrics == pytest.approx(own, abs=1e-6)
    assert set(by_number(evaluated[0])) == set(by_class) == {"0", "1"}
    for kind, figures_of_class in by_number(evaluated[0]).items():
        assert figures_of_class == pytest.approx(by_class[kind], abs=1e-6)


def test_ultralytics_formula_and_ours_agree_on_the_stored_detections(
    evaluated: tuple[Evaluation, Detections], ultralytics: Any
) -> None:
    """Both give back from the file what the validation told, to 1e-6."""
    evaluation, detections = evaluated
    for kind, told in by_number(evaluation).items():
        assert ultralytics[2][kind] == pytest.approx(told, abs=1e-6)
    again = figures(detections)
    assert dict(again.metrics) == pytest.approx(dict(evaluation.metrics), abs=1e-6)


def test_images_are_named_by_their_place_in_the_split(
    evaluated: tuple[Evaluation, Detections],
) -> None:
    """Equal file names in two folders stay apart, and an image listed twice counts twice."""
    evaluation, detections = evaluated
    at = NAMES.index(TWICE) + 1
    names = [*NAMES[:at], f"{TWICE}#2", *NAMES[at:]]
    assert list(detections.images) == [name.removeprefix(TEST) for name in names]
    assert evaluation.images == len(NAMES) + 1


def overlap(a: Any, b: Any) -> float:
    """Intersection over union of two boxes."""
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def test_boxes_are_in_px_of_the_image_as_given(
    bench: Bench, evaluated: tuple[Evaluation, Detections]
) -> None:
    """What counts as correct overlaps a true box as much, in images of every size."""
    detections = evaluated[1]
    for name, (height, width) in zip(detections.images, detections.sizes, strict=True):
        with Image.open(bench.data.parent / TEST / name.partition("#")[0]) as image:
            assert image.size == (width, height)
    correct = np.flatnonzero(detections.correct[:, 0])
    assert len({tuple(detections.sizes[detections.image[at]]) for at in correct}) > 2
    for at in correct:
        same = detections.true_image == detections.image[at]
        same &= detections.true_kind == detections.kind[at]
        best = max(overlap(detections.box[at], box) for box in detections.true_box[same])
        counted = OVERLAPS[detections.correct[at].sum() - 1]
        assert best > counted - 1e-3


def test_true_boxes_are_those_of_the_labels_whatever_the_size_and_the_batch(
    bench: Bench, evaluated: tuple[Evaluation, Detections], tmp_path: Path
) -> None:
    """Two models of other input sizes are held against the very same numbers."""
    _, first = evaluated
    _, other = bench.evaluate(tmp_path / "run", imgsz=96, batch=3)
    assert first.images == other.images
    for name in ("sizes", "true_image", "true_box", "true_kind"):
        assert np.array_equal(getattr(first, name), getattr(other, name)), name
    at = first.images.index("b/4.png")
    label = bench.data.parent / "labels/test/b/4.txt"
    rows = np.array([row.split() for row in label.read_text().splitlines()], dtype=float)
    height, width = first.sizes[at]
    centre, side = rows[:, 1:3] * (width, height), rows[:, 3:5] * (width, height)
    expected = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    assert first.true_box[first.true_image == at] == pytest.approx(expected, abs=1e-3)


def test_what_it_costs_to_run_grows_with_the_image(
    bench: Bench, evaluated: tuple[Evaluation, Detections], tmp_path: Path
) -> None:
    """Four times the side is 16 times the operations and a longer wait; not more parameters."""
    small, _ = evaluated
    large, _ = bench.evaluate(tmp_path / "run", imgsz=256)
    assert small.gflops is not None
    assert large.gflops == pytest.approx(16 * small.gflops)
    assert large.latency_ms["median"] > small.latency_ms["median"] > 0
    assert large.parameters == small.parameters == 3_006_038  # YOLOv8n of two classes, fused
    assert small.device == large.device
    assert small.device.startswith("cpu: ")
    assert small.device.endswith("(1 thread)")
    assert small.weights_bytes == bench.detector.weights.stat().st_size


def test_the_settings_are_those_that_were_in_force(
    evaluated: tuple[Evaluation, Detections],
) -> None:
    """Ultralytics' own of a validation, the training's size and batch, the prediction's."""
    assert evaluated[0].settings == {
        "imgsz": 64,
        "batch": 8,
        "conf": 0.001,
        "iou": 0.7,
        "max_det": 300,
        "single_cls": False,
        "rect": True,
        "half": False,
        "latency_conf": 0.25,
        "latency_iou": 0.7,
    }


# A machine on which choosing among the boxes of one image takes minutes
SLOW = """
from workers.yolo.trainer import YoloTrainer

class Trainer(YoloTrainer):
    def warm(self):
        super().warm()
        from itertools import count
        from types import SimpleNamespace
        from ultralytics.utils import nms
        minutes = count()
        nms.time = SimpleNamespace(time=lambda: 60.0 * next(minutes))
"""


def test_a_slow_machine_finds_as_much(
    bench: Bench, evaluated: tuple[Evaluation, Detections], tmp_path: Path
) -> None:
    """Ultralytics leaves out the boxes of a batch that takes long; an evaluation does not."""
    env = install_trainer(tmp_path / "plugin", "slow", SLOW) | {"OMP_NUM_THREADS": "1"}
    with TrainingProcess("slow", tmp_path / "logs", env) as process:
        job = bench.job(tmp_path / "run")
        evaluation = process.evaluate(bench.detector.weights, job, "test")
        assert process.log is not None
        log = process.log.read_text()
    assert evaluation.detections is not None
    assert evaluated[0].detections is not None
    assert evaluation.detections.read_bytes() == evaluated[0].detections.read_bytes()
    assert "time limit" in log, "the plain prediction, of the latency, must have met the limit"
