"""Evaluate finished weights on a split, and draw a picture to show them on.

Ultralytics is imported at the top: import this module only after `environment.prepare()`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset

from hpo.datasets.data_yaml import load
from hpo.datasets.fingerprint import top_of
from hpo.errors import DatasetError
from hpo.trainer import Evaluation
from workers.yolo.arguments import PREDICT_PARAMS
from workers.yolo.data import own_data_yaml
from workers.yolo.detector import KEYS
from workers.yolo.latency import measure
from workers.yolo.validators import RecordingValidator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.trainer import Job

# Arguments of a training that its validation reads
SHARED = ("imgsz", "batch", "iou", "max_det", "single_cls", "workers")
# Those of its effective arguments that decide the figures
SETTINGS = ("imgsz", "conf", "iou", "max_det", "single_cls", "batch", "rect")
HALF_BITS = 16
DETECTIONS = "detections.npz"
EXAMPLE_PX = 64  # an example's longer side: it is stored as text


def evaluate(
    weights: Path, job: Job, split: str, settings: Mapping[str, Any], device: str
) -> Evaluation:
    """Validate as after an epoch, on `split` of the job's dataset, and measure what it costs.

    Raises:
        DatasetError: the dataset has no such split.
    """
    args = {
        **{name: settings[name] for name in SHARED if name in settings},
        "model": str(weights),
        "data": str(own_data_yaml(job)),
        "split": split,
        "device": device,
        "rect": True,  # as the validation of each epoch
        "plots": False,
        "task": "detect",
        "mode": "val",
    }
    root = _root(job, split)
    validator = RecordingValidator(args, job.run_dir / f"evaluate-{split}", root)
    try:
        figures = validator(model=str(weights))
    except FileNotFoundError as error:
        raise DatasetError(str(job.data), [f"{split}: {error}"]) from error
    detections = validator.detections
    path = job.run_dir / DETECTIONS
    detections.save(path)
    used = {name: getattr(validator.args, name) for name in ("imgsz", "max_det")}
    images = [Path(file) for file in sorted(validator.dataloader.dataset.im_files)]
    cost = measure(weights, images, device, used, job.run_dir)
    return Evaluation(
        metrics={name: float(figures[key]) for name, key in KEYS.items()},
        images=len(detections.images),
        per_class=_per_class(validator.metrics),
        detections=path,
        latency_ms=cost.latency_ms,
        device=cost.device,
        parameters=cost.parameters,
        gflops=cost.gflops,
        weights_bytes=weights.stat().st_size,
        settings={
            **{name: getattr(validator.args, name) for name in SETTINGS},
            "half": validator.args.quantize == HALF_BITS,
            **{f"latency_{name}": value for name, value in PREDICT_PARAMS.items()},
        },
    )


def _root(job: Job, split: str) -> Path:
    """The folder that images are named from: the same names in a copy laid out otherwise.

    Raises:
        DatasetError: the dataset has no such split, or one without images.
    """
    if job.data is None:
        raise TypeError("a detector needs a dataset")
    dataset = load(job.data)
    if split not in dataset.splits:
        known = ", ".join(dataset.splits)
        raise DatasetError(str(job.data), [f"{split}: no such split; the dataset has {known}"])
    if faults := dataset.splits[split].faults:
        raise DatasetError(str(job.data), faults)
    return top_of(dataset.splits[split])


def _per_class(metrics: Any) -> dict[str, dict[str, float]]:
    """Ultralytics' figures of each class that has a true box."""
    table = {}
    for row, kind in enumerate(metrics.ap_class_index):
        precision, recall, at_50, at_all = metrics.class_result(row)
        figures = {"AP50": at_50, "AP50-95": at_all, "precision": precision, "recall": recall}
        table[metrics.names[int(kind)]] = {name: float(value) for name, value in figures.items()}
    return table


def example_image(data: Path) -> Any:
    """The first validation image, made small: H x W x 3 RGB values as nested lists."""
    source = check_det_dataset(str(data))["val"]
    first = Path(source if isinstance(source, str) else source[0])
    if first.is_file():
        line = first.read_text(encoding="utf-8").split("\n", 1)[0]
        file = first.parent / line  # an absolute path stays one
    else:
        file = min(path for path in first.rglob("*") if path.suffix[1:].lower() in IMG_FORMATS)
    with Image.open(file) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail((EXAMPLE_PX, EXAMPLE_PX))
        return np.asarray(small).tolist()
