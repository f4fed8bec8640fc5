"""A YOLO detector as an MLflow model: a table of images in, a table of boxes out.

MLflow copies this one file beside the weights and runs it wherever the model is loaded, so it
imports nothing of the project that made it.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tempfile
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

COLUMNS = {
    "image": "int64",
    "x1": "float64",
    "y1": "float64",
    "x2": "float64",
    "y2": "float64",
    "class": "int64",
    "name": "object",
    "confidence": "float64",
}
DIMENSIONS = 3
CHANNELS = 3


class DetectorModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow has no types
    """Finds boxes in images.

    Input: a DataFrame with the column `image`; each cell is a path, the bytes of an encoded
    image, or an H x W x 3 uint8 RGB array (as nested lists too).

    Output: a DataFrame with a row a box: `image` (row of the input, from 0), `x1`, `y1`, `x2`,
    `y2` (px of the image as given), `class`, `name`, `confidence`, best first within an image.

    Params: `conf` (least confidence, 0.25), `iou` (overlap above which the lesser box goes,
    0.7), `imgsz` (px that the longer side is scaled to, as in training).
    """

    def load_context(self, context: Any) -> None:
        """Load the weights, leaving the user's Ultralytics settings and network alone.

        Raises:
            ValueError: the weights are not those that were registered.
        """
        weights = context.artifacts["weights"]
        expected = (context.model_config or {}).get("sha256", {}).get("weights")
        with open(weights, "rb") as file:  # noqa: PTH123 - MLflow hands out a text
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if expected and found != expected:
            raise ValueError(
                f"{weights} was altered: its sha256 is {found}, registered was {expected}"
            )
        if "ultralytics" not in sys.modules:
            os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="detector-"))
            os.environ.setdefault("YOLO_OFFLINE", "true")
            os.environ.setdefault("YOLO_AUTOINSTALL", "false")
        from ultralytics import YOLO

        self._model = YOLO(weights, task="detect")

    def predict(
        self, context: Any, model_input: Any, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Boxes of every image; see the class for the columns and the params.

        Raises:
            ValueError: no column `image`, or a cell that is no image.
        """
        del context
        if "image" not in model_input:
            raise ValueError(f"expected a column 'image', got {list(model_input)}")
        options = {"conf": 0.25, "iou": 0.7, **(params or {})}
        rows: list[tuple[Any, ...]] = []
        # One by one: in a batch of different sizes an image's padding, and so its boxes, would
        # depend on its neighbours.
        for row, cell in enumerate(model_input["image"]):
            pixels = _pixels(cell, row)
            bgr = np.ascontiguousarray(pixels[..., ::-1])  # Ultralytics takes arrays as BGR
            (found,) = self._model.predict(bgr, verbose=False, save=False, **options)
            rows.extend(_boxes(row, found))
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        return table.astype(COLUMNS)  # an empty table has no kinds of its own


def _boxes(row: int, found: Any) -> list[tuple[Any, ...]]:
    boxes = found.boxes.cpu().numpy()
    return [
        (row, *map(float, corners), int(kind), found.names[int(kind)], float(confidence))
        for corners, kind, confidence in zip(boxes.xyxy, boxes.cls, boxes.conf, strict=True)
    ]


def _pixels(cell: Any, row: int) -> np.ndarray:
    """The image in a cell as an H x W x 3 uint8 RGB array."""
    if isinstance(cell, (str, os.PathLike)):
        return _decoded(cell, row)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return _decoded(io.BytesIO(bytes(cell)), row)
    pixels = np.asarray(_unwrapped(cell))
    if pixels.ndim != DIMENSIONS or pixels.shape[2] != CHANNELS:
        raise ValueError(f"row {row}: expected an H x W x 3 array, got shape {pixels.shape}")
    if pixels.size and (pixels.min() < 0 or pixels.max() > 255):  # noqa: PLR2004 - uint8's range
        raise ValueError(f"row {row}: expected values from 0 to 255")
    return pixels.astype(np.uint8)


def _unwrapped(cell: Any) -> Any:
    # MLflow and pandas may turn nested lists into arrays of arrays
    if isinstance(cell, np.ndarray) and cell.dtype == object:
        return [_unwrapped(part) for part in cell]
    return cell


def _decoded(source: Any, row: int) -> np.ndarray:
    try:
        with Image.open(source) as image:
            # As Ultralytics reads files: turned upright as the camera's tag says
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise
    except Exception as error:
        # Ultralytics teaches Pillow formats whose readers may not be installed
        raise ValueError(f"row {row}: no image that can be read") from error


mlflow.models.set_model(DetectorModel())
