"""Trainer `yolo`: Ultralytics detectors behind the Trainer protocol.

Neither torch nor Ultralytics is imported here at the top; they load in the training process, inside
`warm` and after.
"""

from __future__ import annotations

import gc
import shutil
import time
from importlib.metadata import distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import TrialError, WeightsError
from hpo.trainer import DETECTION_METRICS, Description, Directive, Evaluation, Package, Result
from workers.yolo import environment
from workers.yolo.arguments import DEFAULTS, PREDICT_PARAMS, arguments, code_version
from workers.yolo.data import own_data_yaml
from workers.yolo.models import EXAMPLES, hidden_words, hiding, start_file
from workers.yolo.study_checks import faults
from workers.yolo.weights import find_model, require_architecture, require_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hpo.trainer import Epoch, Job, TrainSpec

PICTURES = (
    "results.png",
    "confusion_matrix.png",
    "confusion_matrix_normalized.png",
    "BoxPR_curve.png",
    "BoxF1_curve.png",
    "BoxP_curve.png",
    "BoxR_curve.png",
    *(f"val_batch{n}_{kind}.jpg" for n in range(3) for kind in ("labels", "pred")),
)
OUTPUTS = {
    "image": "long",
    **dict.fromkeys(("x1", "y1", "x2", "y2"), "double"),
    "class": "long",
    "name": "string",
    "confidence": "double",
}

LICENCE = "AGPL-3.0-or-later"  # of Ultralytics, of the weights that it trains, and of this package
# Installed Ultralytics says AGPL-3.0 of itself; what that means for weights is its own view:
# https://www.ultralytics.com/license, https://github.com/ultralytics/ultralytics/issues/14297
LICENCE_NOTE = (
    "The weights were trained with Ultralytics, whose code and pretrained weights are under "
    "AGPL-3.0. Ultralytics holds that models trained with it are so too, and sells other terms "
    "(https://www.ultralytics.com/license). The images may have terms of their own."
)
WEIGHTS_NAME = "best.pt"
WEIGHTS_LOADER = f"""\
import mlflow
from pathlib import Path
from ultralytics import YOLO

folder = Path(mlflow.artifacts.download_artifacts({{uri}}))
model = YOLO(folder / "artifacts" / "{WEIGHTS_NAME}")"""


class YoloTrainer:
    """Trainer `yolo`."""

    def describe(self) -> Description:
        return Description(
            name="yolo",
            arguments=arguments(),
            metrics=dict.fromkeys(DETECTION_METRICS, "maximize"),
            models=EXAMPLES,
            simulated=False,
            needs_data=True,
            devices=("cpu", "cuda"),
            code_version=code_version(),
            weights_loader=WEIGHTS_LOADER,
        )

    def check(self, spec: TrainSpec) -> Sequence[str]:
        return list(faults(self.describe(), spec))

    def warm(self) -> None:
        """Import torch and Ultralytics: about 6 seconds."""
        environment.prepare()
        from workers.yolo import detector  # noqa: F401 - imported for its imports

    def train(self, job: Job, report: Callable[[Epoch], Directive]) -> Result:
        self.warm()
        from workers.yolo.checkpoint import read_state
        from workers.yolo.detector import Detector, Leave

        overrides, state = _overrides(job), read_state(job)
        started = time.monotonic()
        detector, verdict = Detector(overrides, job, report, state), Directive.GO
        del state  # as large as the model, its averages and the optimizer together
        try:
            detector.train()
        except Leave as leave:
            verdict = leave.verdict
        finally:
            detector.release()
        unused = verdict is Directive.STOP or detector.best_epoch is None
        finished = verdict is Directive.GO  # pictures take seconds: a pruned trial has none
        result = Result(
            best_epoch=detector.best_epoch,
            weights=None if unused else detector.best,
            pictures=_pictures(job.run_dir) if finished else {},
            effective=detector.effective,
            train_s=time.monotonic() - started - detector.report_s,
        )
        del detector
        _free(job.device)
        return result

    def evaluate(self, weights: Path, job: Job, split: str) -> Evaluation:
        self.warm()
        from workers.yolo.evaluation import evaluate

        require_weights(weights)
        evaluation = evaluate(weights, job, split, _settings(job), _device(job.device))
        _free(job.device)
        return evaluation

    def package(self, weights: Path, job: Job) -> Package:
        self.warm()
        from workers.yolo.evaluation import example_image

        require_weights(weights)
        job.run_dir.mkdir(parents=True, exist_ok=True)
        source = Path(__file__).parent / "model_code" / "detector_model.py"
        code = Path(shutil.copyfile(source, job.run_dir / source.name))
        names = ("ultralytics", "torch", "torchvision", "numpy", "pandas", "pillow", "mlflow")
        return Package(
            code=code,
            artifacts={"weights": _named(weights, job.run_dir)},
            # A local label such as +cpu names a build that registries do not carry
            requirements=tuple(f"{name}=={version(name).partition('+')[0]}" for name in names),
            example=None if job.data is None else [example_image(own_data_yaml(job))],
            outputs=OUTPUTS,
            params={**PREDICT_PARAMS, "imgsz": _settings(job).get("imgsz", _default("imgsz"))},
            licence=LICENCE,
            licence_note=LICENCE_NOTE,
            licence_text=distribution("ultralytics").read_text("licenses/LICENSE") or "",
        )

    def start_file(self, model: str) -> Path | None:
        if (file := hiding(model)) is not None:
            raise WeightsError(hidden_words(model, file))
        return start_file(model)

    def prepare(self, model: str) -> Path:
        path = Path(find_model(model))
        if path.suffix != ".pt":
            require_architecture(path)
        return path

    def export_onnx(self, weights: Path, job: Job) -> Path:
        self.warm()
        from workers.yolo.onnx_export import export

        require_weights(weights)
        size = _settings(job).get("imgsz", _default("imgsz"))
        return export(weights, job, size, PREDICT_PARAMS)


def _named(weights: Path, folder: Path) -> Path:
    """The weights under the name that they bear in the registered model."""
    if weights.name == WEIGHTS_NAME:
        return weights
    return Path(shutil.copyfile(weights, folder / WEIGHTS_NAME))


def _default(name: str) -> Any:
    return arguments()[name].default


def _settings(job: Job) -> dict[str, Any]:
    """The arguments of a training, Ultralytics' own defaults left out."""
    return {**DEFAULTS, **job.train, **job.params}


def _overrides(job: Job) -> dict[str, Any]:
    on_cpu = job.device == "cpu"
    return {
        "cache": None,  # decided by the dataset's size; see Detector.get_dataset
        "amp": not on_cpu,
        **_settings(job),
        "model": find_model(job.model),
        "data": str(own_data_yaml(job)),
        "epochs": job.epochs,
        "seed": job.seed,
        "device": _device(job.device),
        "save_dir": str(job.run_dir),  # pinned, so that Ultralytics does not pick a new one
        "exist_ok": True,
        "task": "detect",
        "mode": "train",
    }


def _device(device: str) -> str:
    """Ultralytics' word for a device: `cpu`, or the number of a CUDA device that is visible.

    What is visible stays as Ray or the user set it.
    """
    import torch

    if device == "cpu":
        return device
    kind, _, number = device.partition(":")
    index = int(number or 0)
    count = torch.cuda.device_count()
    if kind != "cuda" or index >= count:
        raise TrialError(
            "error",
            f"device {device} was asked for, this process sees {count} CUDA devices",
            hint="Start the worker with a device that `nvidia-smi` lists, or with cpu.",
        )
    return str(index)


def _pictures(folder: Path) -> Mapping[str, Path]:
    return {name: folder / name for name in PICTURES if (folder / name).is_file()}


def _free(device: str) -> None:
    """Give a trial's memory back before the next one: the trainer is a cycle of references."""
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
