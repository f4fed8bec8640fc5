"""An ONNX export is kept only when it finds what its weights find."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support.training import Recorder, in_torch, install_trainer, make_job

from hpo.errors import ExportError
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from pathlib import Path

    from support.training import Detector

RUN_ALONE = """
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(taken,) = session.get_inputs()
(given,) = session.run(None, {taken.name: numpy.zeros(taken.shape, numpy.float32)})
print(json.dumps([taken.shape, given.shape, bool(numpy.isfinite(given).all())]))
"""

# The comparison in the process of its own that has Ultralytics
COMPARE = """
from pathlib import Path
weights, made, size, *images = sys.argv[1:]
from workers.yolo.onnx_export import ExportError, require_equal
try:
    images = [Path(image) for image in images]
    words = require_equal(Path(weights), Path(made), images, int(size), {"iou": 0.7})
except ExportError as error:
    words = str(error)
print(json.dumps(words))
"""

DIFFERENCES = """
import numpy as np
from workers.yolo.onnx_export import Found, difference
def found(rows):
    rows = np.array(rows, dtype=float).reshape(-1, 6)
    return Found(rows[:, :4], rows[:, 4], rows[:, 5])
print(json.dumps([difference(found(a), found(b), 0.25) for a, b in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector's ONNX file."""
    run_dir = tmp_path_factory.mktemp("export") / "run"
    return detector.process.export_onnx(detector.weights, detector.job(run_dir))


@pytest.mark.promotion
def test_the_file_runs_without_ultralytics_at_the_training_s_size(exported: Path) -> None:
    """ONNX Runtime alone takes an image of `imgsz` px; the weights' copy is not left beside it."""
    taken, given, finite = in_torch(RUN_ALONE, exported)
    assert taken == [1, 3, 64, 64]
    assert given[:2] == [1, 6]
    assert finite
    assert [file.name for file in exported.parent.iterdir()] == ["model.onnx"]


@pytest.mark.promotion
def test_it_finds_the_same_boxes_as_the_weights(detector: Detector, exported: Path) -> None:
    """Compared again on every image: some boxes, all of them alike."""
    found = in_torch(COMPARE, detector.weights, exported, 64, *detector.images)
    assert isinstance(found, int)
    assert found > 10


@pytest.mark.promotion
def test_an_export_that_finds_something_else_is_refused_with_the_box(
    detector: Detector, exported: Path, tmp_path: Path
) -> None:
    """A file of other weights is not taken for an export of these."""
    other = tmp_path / "other.pt"
    in_torch(
        """
        stored = torch.load(sys.argv[1], weights_only=False)
        for name, value in stored["model"].named_parameters():
            if name.startswith("model.22.cv2.0.2"):
                value.mul_(0.5)
        torch.save(stored, sys.argv[2])
        print("null")
        """,
        detector.weights,
        other,
    )
    words = in_torch(COMPARE, other, exported, 64, *detector.images)
    assert "the ONNX export finds something else than the weights on" in words
    assert "px with confidence 0." in words


@pytest.mark.promotion
def test_where_nothing_is_found_equality_is_not_claimed(detector: Detector, tmp_path: Path) -> None:
    """Two models that find nothing could be any two models."""
    silent = tmp_path / "silent.pt"
    in_torch(
        """
        stored = torch.load(sys.argv[1], weights_only=False)
        for name, value in stored["model"].named_parameters():
            if ".cv3." in name and name.endswith("2.bias"):
                value.fill_(-30)
        torch.save(stored, sys.argv[2])
        print("null")
        """,
        detector.weights,
        silent,
    )
    job = detector.job(tmp_path / "run")
    with pytest.raises(ExportError, match="neither the weights nor their ONNX export finds any"):
        detector.process.export_onnx(silent, job)


def test_what_counts_as_the_same_box() -> None:
    """One px, 0.001 of confidence and the class; at the least confidence rounding may decide."""
    box = [10.0, 10.0, 20.0, 20.0, 0, 0.9]
    moved = [10.9, 10.0, 20.0, 20.0, 0, 0.9005]
    far = [11.2, 10.0, 20.0, 20.0, 0, 0.9]
    surer = [10.0, 10.0, 20.0, 20.0, 0, 0.902]
    other = [10.0, 10.0, 20.0, 20.0, 1, 0.9]
    faint = [50.0, 50.0, 60.0, 60.0, 0, 0.2505]
    cases: list[tuple[list[Any], list[Any], bool]] = [
        ([box], [box], True),
        ([box], [moved], True),
        ([box], [far], False),
        ([box], [surer], False),
        ([box], [other], False),
        ([box], [], False),
        ([], [box], False),
        ([box, box], [box], False),
        ([box, faint], [box], True),
        ([box], [faint, box], True),
    ]
    words = in_torch(DIFFERENCES, json.dumps([(a, b) for a, b, _ in cases]))
    assert [text == "" for text in words] == [equal for _, _, equal in cases]
    assert words[5] == (
        "only the weights find class 0 at [10.0, 10.0, 20.0, 20.0] px with confidence 0.9000"
    )


@pytest.mark.promotion
def test_the_test_split_is_compared_on_where_there_is_one(
    detector: Detector, tmp_path: Path
) -> None:
    """No more than 16 images, from the first to the last; the validation split stands in."""
    data = tmp_path / "data.yaml"
    text = detector.data.read_text(encoding="utf-8")
    data.write_text(text + "test: more\n", encoding="utf-8")
    more = detector.data.parent / "more"
    more.mkdir()
    for index in range(40):
        shutil.copyfile(detector.images[0], more / f"{index:02}.png")
    code = """
    import pathlib, pickle
    from workers.yolo.onnx_export import sample
    with open(sys.argv[1], "rb") as file:
        jobs = pickle.load(file)
    print(json.dumps([[path.name for path in sample(job)] for job in jobs]))
    """
    plain = detector.job(tmp_path / "run")
    jobs = tmp_path / "jobs"
    jobs.write_bytes(pickle.dumps([dataclasses.replace(plain, data=data), plain]))
    ours, theirs = in_torch(code, jobs)
    assert (len(ours), ours[0], ours[-1]) == (16, "00.png", "39.png")
    assert sorted(theirs) == sorted(path.name for path in detector.images)


# What a machine without the extra `onnx` sees; Ultralytics would call pip
WITHOUT = """
import sys
from importlib import metadata, util
from workers.yolo.trainer import YoloTrainer

class Trainer(YoloTrainer):
    def warm(self):
        super().warm()
        for name in ("onnx", "onnxslim"):
            sys.modules[name] = None
"""


@pytest.mark.promotion
def test_missing_packages_are_named_and_not_installed(detector: Detector, tmp_path: Path) -> None:
    """A machine without the extra says which command mends it."""
    env = install_trainer(tmp_path / "plugin", "bare", WITHOUT)
    with (
        TrainingProcess("bare", tmp_path / "logs", env) as process,
        pytest.raises(ExportError, match="not installed: onnx, onnxslim") as caught,
    ):
        process.export_onnx(detector.weights, detector.job(tmp_path / "run"))
    assert "pip install 'hpo-service[onnx]'" in caught.value.hint


def test_a_trainer_without_an_export_says_so(tmp_path: Path) -> None:
    """The simulated trainer has none; its process goes on."""
    with TrainingProcess("simulated", tmp_path / "logs") as process:
        weights = process.train(make_job(tmp_path / "run"), Recorder()).weights
        assert weights is not None
        with pytest.raises(ExportError, match="the trainer simulated has no ONNX export"):
            process.export_onnx(weights, make_job(tmp_path / "export"))
        assert process.pid is not None
