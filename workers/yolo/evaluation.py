"""Figures of finished weights on a split, and a picture to show them on; trains nothing.

Imports Ultralytics at its top: import it only after `environment.prepare()`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset
from ultralytics.models.yolo.detect import DetectionValidator

from hpo.errors import DatasetError
from hpo.trainer import Evaluation
from workers.yolo.data import own_data_yaml
from workers.yolo.detector import KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.trainer import Job

# Arguments of a training that its validation reads
SHARED = ("imgsz", "batch", "iou", "max_det", "single_cls", "workers")
EXAMPLE_PX = 64  # an example's longer side: it is stored as text


def evaluate(
    weights: Path, job: Job, split: str, settings: Mapping[str, Any], device: str
) -> Evaluation:
    """Validate as after an epoch, on `split` of the job's dataset.

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
    validator = DetectionValidator(args=args, save_dir=job.run_dir / f"evaluate-{split}")
    try:
        figures = validator(model=str(weights))
    except FileNotFoundError as error:
        raise DatasetError(str(job.data), [f"{split}: {error}"]) from error
    return Evaluation({name: float(figures[key]) for name, key in KEYS.items()}, validator.seen)


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
