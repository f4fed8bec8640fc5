"""Export weights to ONNX; keep the file only when it finds the same boxes.

Ultralytics is imported at the top: import this module only after `environment.prepare()`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ultralytics import YOLO

from hpo.datasets.data_yaml import load
from hpo.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpo.trainer import Job

NEEDED = ("onnx", "onnxruntime", "onnxslim")
SAMPLE = 16  # images, spread over the split
LARGEST_SHIFT_PX = 1.0
LARGEST_CONFIDENCE = 1e-3
# Least confidences, tried in turn until the weights find something: with nothing found on either
# side, equality would say nothing.
LEAST = (0.25, 0.05, 0.01, 0.001)


@dataclass(frozen=True)
class Found:
    """What a model found on one image, best first.

    Attributes:
        boxes: (n, 4) x1 y1 x2 y2 in px of the image as given.
        kinds: (n,) class numbers.
        confidences: (n,).
    """

    boxes: np.ndarray
    kinds: np.ndarray
    confidences: np.ndarray


def export(weights: Path, job: Job, size: int, options: Mapping[str, Any]) -> Path:
    """Export on the CPU at `size` px, and compare on images of the test split, else of val.

    The file takes a square image of that size; both sides are compared with images padded to it.

    Raises:
        ExportError: packages are missing, the export fails, or other boxes are found.
    """
    require_packages()
    folder = job.run_dir / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    # Ultralytics writes the export beside the weights, under their name
    own = Path(shutil.copyfile(weights, folder / "model.pt"))
    try:
        made = Path(YOLO(own, task="detect").export(format="onnx", imgsz=size, device="cpu"))
    except Exception as error:
        # It raises whatever its converters raise
        text = f"the ONNX export failed: {type(error).__name__}: {error}"
        raise ExportError(text, hint="`hpo finalize --no-onnx` promotes without one.") from error
    require_equal(own, made, sample(job), size, options)
    own.unlink()
    return made


def require_packages() -> None:
    """Raise ExportError when the packages of the extra `onnx` are missing; install nothing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"an ONNX export needs packages that are not installed: {', '.join(missing)}",
            hint="Install them on the machines that promote: `pip install 'hpo-service[onnx]'`; or "
            "leave `onnx: true` out of the study's `promotion`.",
        )


def sample(job: Job) -> list[Path]:
    """Up to SAMPLE images of the test split, else of val, spread evenly over it."""
    if job.data is None:
        raise TypeError("a detector needs a dataset")
    splits = load(job.data).splits
    images = splits.get("test", splits["val"]).images
    if not images:
        raise ExportError(f"{job.data} has no images to compare an ONNX export on")
    at = np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).round().astype(int)
    return [images[index] for index in at]


def require_equal(
    weights: Path, made: Path, images: Sequence[Path], size: int, options: Mapping[str, Any]
) -> int:
    """The number of boxes found alike by both files.

    Raises:
        ExportError: a box differs, or neither finds any.
    """
    models = [YOLO(file, task="detect") for file in (weights, made)]
    for least in LEAST:
        given = {**options, "conf": least, "imgsz": size}
        original, exported = ([_found(model, one, given) for one in images] for model in models)
        if not any(len(one.boxes) for one in original + exported):
            continue
        for image, left, right in zip(images, original, exported, strict=True):
            if fault := difference(left, right, least):
                raise ExportError(
                    f"the ONNX export finds something else than the weights on {image.name} "
                    f"(confidence from {least}): {fault}",
                    hint="Nothing was registered. `hpo finalize --no-onnx` promotes without it.",
                )
        return sum(len(one.boxes) for one in original)
    raise ExportError(
        f"on {len(images)} images neither the weights nor their ONNX export finds any box: "
        "that they are equal cannot be seen",
        hint="Nothing was registered. `hpo finalize --no-onnx` promotes without it.",
    )


def _found(model: YOLO, image: Path, options: Mapping[str, Any]) -> Found:
    # Padded to a square, as the export takes it: with `rect` the weights alone would see less
    (result,) = model.predict(
        str(image), verbose=False, save=False, rect=False, device="cpu", **options
    )
    boxes = result.boxes.cpu().numpy()
    return Found(boxes.xyxy, boxes.cls, boxes.conf)


def difference(left: Found, right: Found, least: float) -> str:
    """How the second differs from the first, in words; "" when they are equal.

    Each box must have one of the same class in the other, its corners at most LARGEST_SHIFT_PX
    and its confidence at most LARGEST_CONFIDENCE away. One may be without where it is so near the
    least confidence that rounding decides whether it is there.
    """
    pairs = [
        (float(np.abs(left.boxes[i] - right.boxes[j]).max()), i, j)
        for i, j in product(range(len(left.boxes)), range(len(right.boxes)))
        if left.kinds[i] == right.kinds[j]
        and abs(left.confidences[i] - right.confidences[j]) <= LARGEST_CONFIDENCE
    ]
    alone_left, alone_right = set(range(len(left.boxes))), set(range(len(right.boxes)))
    for shift, i, j in sorted(pairs):
        if shift <= LARGEST_SHIFT_PX and i in alone_left and j in alone_right:
            alone_left.remove(i)
            alone_right.remove(j)
    for found, alone, whose in ((left, alone_left, "weights"), (right, alone_right, "export")):
        for index in sorted(alone):
            if found.confidences[index] > least + LARGEST_CONFIDENCE:
                corners = ", ".join(f"{value:.1f}" for value in found.boxes[index])
                return (
                    f"only the {whose} find{'s' * (whose == 'export')} class "
                    f"{int(found.kinds[index])} at [{corners}] px "
                    f"with confidence {found.confidences[index]:.4f}"
                )
    return ""
