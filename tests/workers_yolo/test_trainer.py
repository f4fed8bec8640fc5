"""Real YOLO trainings on tiny drawn images: what Ultralytics alone would not promise."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.training import TRAIN, Recorder, in_torch, install_trainer, make_images, make_job

from hpo.errors import DatasetError, TrialError
from hpo.trainer import Directive, Result
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.training import Trained

    from hpo.trainer import Job


@dataclasses.dataclass
class Lab:
    """One warm process in a home of its own, a dataset, and weights that find something.

    Attributes:
        base: weights after 30 epochs, mAP50 about 0.8.
        home: what the child takes for the user's home.
    """

    process: TrainingProcess
    data: Path
    base: Path
    home: Path

    def job(self, run_dir: Path, **changes: Any) -> Job:
        fields = {"model": str(self.base), "train": TRAIN, "params": {"lr0": 0.0005}}
        return make_job(run_dir, data=self.data, **{**fields, "epochs": 3, **changes})


@pytest.fixture(scope="module")
def lab(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("lab")
    home = root / "home"
    home.mkdir()
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "OMP_NUM_THREADS": "1"}
    with TrainingProcess("yolo", root / "logs", env) as process:
        yield Lab(process, trained.data, trained.weights, home)


@pytest.fixture(scope="module")
def by_precision(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Recorder]:
    """A finished training whose objective is precision, with pictures."""
    seen = Recorder()
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    train = {**TRAIN, "plots": True}
    job = lab.job(run_dir, metric="precision", train=train, epochs=4)
    return lab.process.train(job, seen), seen


def test_the_kept_weights_are_of_the_best_epoch_by_the_objective(
    by_precision: tuple[Result, Recorder],
) -> None:
    """best.pt is of the epoch with the best precision, where mAP50-95 prefers another."""
    result, seen = by_precision
    values = seen.values("precision")
    assert result.best_epoch == values.index(max(values)) + 1
    others = seen.values("mAP50-95")
    assert others.index(max(others)) + 1 != result.best_epoch, "the metrics must differ"
    kept = in_torch(
        """
        stored = torch.load(sys.argv[1], weights_only=False)
        metrics = stored["train_metrics"]
        print(json.dumps([metrics["metrics/precision(B)"], metrics["metrics/mAP50(B)"]]))
        """,
        result.weights,
    )
    best = seen.epochs[result.best_epoch - 1].metrics
    assert kept == [best["precision"], best["mAP50"]]


def test_a_finished_trial_has_its_pictures(by_precision: tuple[Result, Recorder]) -> None:
    """Curves, confusion matrix and validation predictions are whole files."""
    result, _ = by_precision
    wanted = {"results.png", "confusion_matrix.png", "BoxPR_curve.png", "val_batch0_pred.jpg"}
    assert wanted <= set(result.pictures)
    assert all(path.stat().st_size > 1000 for path in result.pictures.values())


def test_every_epoch_has_losses_rate_and_time_under_names_that_mlflow_takes(
    by_precision: tuple[Result, Recorder],
) -> None:
    """Train and val losses, learning rate and seconds, without parentheses."""
    _, seen = by_precision
    losses = {f"{kind}/{loss}_loss" for kind in ("train", "val") for loss in ("box", "cls", "dfl")}
    for epoch in seen.epochs:
        assert losses | {"lr", "seconds"} <= set(epoch.metrics)
        assert not [name for name in epoch.metrics if set(name) & set("()")]
    assert seen.numbers == [1, 2, 3, 4]


def test_on_a_tie_the_earliest_epoch_is_kept(lab: Lab, tmp_path: Path) -> None:
    """From scratch nothing is found at first: of epochs all at 0 the first one's weights stay."""
    seen = Recorder()
    job = lab.job(tmp_path / "run", model="yolov8n.yaml", epochs=2)
    result = lab.process.train(job, seen)
    assert seen.values("mAP50") == [0.0, 0.0]
    assert result.best_epoch == 1
    stored = in_torch(
        """
        stored = torch.load(sys.argv[1], weights_only=False)
        print(json.dumps([stored["train_metrics"]["val/box_loss"]]))
        """,
        result.weights,
    )
    assert stored == [seen.epochs[0].metrics["val/box_loss"]]


def test_a_parameter_that_ultralytics_overrides_fails_the_trial(lab: Lab, tmp_path: Path) -> None:
    """Under `optimizer: auto` lr0 is replaced: the trial fails before its first epoch."""
    seen = Recorder()
    train = {name: value for name, value in TRAIN.items() if name != "optimizer"}
    with pytest.raises(TrialError, match=r"parameter lr0=0\.0005 was not applied: effective 0\.0"):
        lab.process.train(lab.job(tmp_path / "run", train=train), seen)
    assert seen.epochs == []


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop", "MuSGD"])
def test_the_optimizers_own_values_are_compared(lab: Lab, tmp_path: Path, optimizer: str) -> None:
    """Rate, momentum and decay are read back from each kind of optimizer."""
    params = {"lr0": 0.003, "momentum": 0.85, "weight_decay": 0.0007}
    train = {**TRAIN, "optimizer": optimizer}
    job = lab.job(tmp_path / "run", params=params, train=train)
    result = lab.process.train(job, Recorder(at=1, verdict=Directive.STOP))
    assert {name: result.effective[name] for name in params} == pytest.approx(params)
    assert result.effective["optimizer"] == optimizer


# Ultralytics' own training, on a device with room for 4 images
SMALL = """
from workers.yolo.trainer import YoloTrainer

class Trainer(YoloTrainer):
    def warm(self):
        super().warm()
        from workers.yolo import detector

        class Small(detector.DetectionTrainer):
            def preprocess_batch(self, batch):
                if len(batch["img"]) > 4:
                    raise RuntimeError("CUDA out of memory")
                return super().preprocess_batch(batch)

        detector.Detector.__bases__ = (Small,)
"""


def test_a_batch_halved_for_memory_is_recorded_and_fails_a_searched_one(
    lab: Lab, tmp_path: Path
) -> None:
    """Ultralytics halves it silently: a fixed one is recorded, a searched one fails."""
    env = install_trainer(tmp_path / "plugin", "small", SMALL)
    with TrainingProcess("small", tmp_path / "logs", env) as process:
        fixed = lab.job(tmp_path / "fixed")
        assert process.train(fixed, Recorder()).effective["batch"] == 4
        train = {name: value for name, value in TRAIN.items() if name != "batch"}
        searched = lab.job(tmp_path / "searched", train=train, params={"batch": 8})
        with pytest.raises(TrialError, match="parameter batch=8 was not applied: effective 4") as e:
            process.train(searched, Recorder())
    assert e.value.reason == "out_of_memory"


def test_an_installed_albumentations_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """Workers with and without it train alike: it is not even imported."""
    trace, package = tmp_path / "imported", tmp_path / "site" / "albumentations.py"
    package.parent.mkdir()
    package.write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\n")
    env = {"PYTHONPATH": str(package.parent)}
    with TrainingProcess("yolo", tmp_path / "logs", env) as process:
        process.train(lab.job(tmp_path / "run", epochs=1), Recorder())
    assert not trace.exists()


def test_a_loss_that_is_nan_ends_the_trial_as_diverged(lab: Lab, tmp_path: Path) -> None:
    """No roll-back to earlier weights: the trial diverged."""
    broken = tmp_path / "nan.pt"
    in_torch(
        """
        stored = torch.load(sys.argv[1], weights_only=False)
        next(stored["model"].parameters()).fill_(float("nan"))
        torch.save(stored, sys.argv[2])
        print("null")
        """,
        lab.base,
        broken,
    )
    seen = Recorder()
    with pytest.raises(TrialError, match=r"epoch 1: train/.*_loss is nan") as caught:
        lab.process.train(lab.job(tmp_path / "run", model=str(broken)), seen)
    assert caught.value.reason == "diverged"
    assert seen.epochs == []


def test_a_study_that_asks_for_absent_hardware_is_told(lab: Lab, tmp_path: Path) -> None:
    """A CUDA device that is not there is named with what is."""
    with pytest.raises(TrialError, match="device cuda:99 was asked for, this process sees"):
        lab.process.train(lab.job(tmp_path / "run", device="cuda:99"), Recorder())


def test_weights_cut_short_fail_the_trial_with_their_name(lab: Lab, tmp_path: Path) -> None:
    """A damaged `model:` is a failure in words, and the process goes on."""
    cut = tmp_path / "cut.pt"
    cut.write_bytes(lab.base.read_bytes()[:5000])
    with pytest.raises(TrialError, match=r"cut\.pt cannot be read as weights"):
        lab.process.train(lab.job(tmp_path / "run", model=str(cut)), Recorder())


def test_a_split_that_the_dataset_lacks_is_named(lab: Lab, tmp_path: Path) -> None:
    """Evaluating on `test` without one is the dataset's fault, in words."""
    with pytest.raises(DatasetError, match="test: "):
        lab.process.evaluate(lab.base, lab.job(tmp_path / "run"), "test")


def test_an_evaluation_agrees_with_the_epoch_it_is_of(
    lab: Lab, by_precision: tuple[Result, Recorder], tmp_path: Path
) -> None:
    """Weights stored in half precision score as they did, but for rounding."""
    result, seen = by_precision
    assert result.weights is not None
    assert result.best_epoch is not None
    evaluation = lab.process.evaluate(result.weights, lab.job(tmp_path / "run"), "val")
    told = seen.epochs[result.best_epoch - 1].metrics["mAP50"]
    assert evaluation.metrics["mAP50"] == pytest.approx(told, abs=0.05)
    assert evaluation.images == 16


def test_nothing_of_the_users_ultralytics_is_touched(
    lab: Lab, by_precision: tuple[Result, Recorder]
) -> None:
    """After trainings with pictures, the home holds no settings and no runs of Ultralytics."""
    del by_precision
    written = {path.name for path in lab.home.rglob("*") if path.is_file()}
    assert not {name for name in written if "font" not in name}, written


def test_a_read_only_dataset_is_trained_on(lab: Lab, tmp_path: Path) -> None:
    """Where the label cache cannot be written, the log says so and the training goes on."""
    data = make_images(tmp_path / "images")
    for split in ("train", "val"):
        # A folder in the cache's place: root may write where permissions forbid it
        (tmp_path / "images" / "labels" / f"{split}.cache").mkdir()
    seen = Recorder(at=1, verdict=Directive.STOP)
    lab.process.train(dataclasses.replace(lab.job(tmp_path / "run"), data=data), seen)
    assert seen.numbers == [1]
    assert lab.process.log is not None
    assert "labels are read anew each time" in lab.process.log.read_text()


PREDICT = """
import io, numpy, pandas
from pathlib import Path
import mlflow
from PIL import Image
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec, Schema
code, weights, picture, out, params = sys.argv[1:]
kinds = {float: "double", int: "long"}
params = [ParamSpec(name, kinds[type(value)], value) for name, value in json.loads(params).items()]
signature = ModelSignature(Schema([ColSpec(AnyType(), "image")]), None, ParamSchema(params))
artifacts = {"weights": weights}
mlflow.pyfunc.save_model(
    out, python_model=code, artifacts=artifacts, pip_requirements=[], signature=signature
)
model = mlflow.pyfunc.load_model(out)
array = numpy.asarray(Image.open(picture).convert("RGB"))
black = numpy.zeros((40, 70, 3), dtype=numpy.uint8)
cells = [picture, Path(picture).read_bytes(), array, array.tolist(), black]
table = model.predict(pandas.DataFrame({"image": cells}), params={"conf": 0.05})
none = model.predict(pandas.DataFrame({"image": [black]}))
kinds = [[str(kind) for kind in one.dtypes] for one in (table, none)]
print(json.dumps([table.to_dict("records"), list(table.columns), kinds, len(none)]))
"""


def test_the_packaged_model_finds_the_same_boxes_in_every_form_of_an_image(
    lab: Lab, tmp_path: Path
) -> None:
    """Path, bytes, array and nested lists agree, and no boxes is a table with the same columns."""
    package = lab.process.package(lab.base, lab.job(tmp_path / "run"))
    picture = lab.data.parent / "images" / "val" / "0.png"
    rows, columns, kinds, none = in_torch(
        PREDICT,
        package.code,
        package.artifacts["weights"],
        picture,
        tmp_path / "model",
        json.dumps(dict(package.params)),
    )
    assert columns == list(package.outputs)
    assert kinds[0] == kinds[1]
    assert none == 0
    forms = [[row for row in rows if row["image"] == form] for form in range(4)]
    assert forms[0], "the weights find something"
    for form in forms[1:]:
        assert [{**row, "image": 0} for row in form] == forms[0]
    for row in forms[0]:
        assert 0 <= row["x1"] < row["x2"] <= 64
        assert row["name"] in ("square", "disc")
    assert package.example is not None
    assert package.params["imgsz"] == 64
