"""A YOLO detector as an MLflow model: a table of images in, a table of boxes out.

MLflow copies this one file beside the weights and runs it wherever the model is loaded, so it
imports nothing of the project that made it.

The weights lie beside the copy as Ultralytics wrote them: `ultralytics.YOLO("artifacts/best.pt")`.
"""

from __future__ import annotations

import atexit
import base64
import binascii
import hashlib
import io
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
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
SEVERAL = (2, DIMENSIONS + 1)  # how deep lists of encoded images, and of arrays, are nested
LARGEST_PX = 4096  # of `imgsz`: a request may not ask for more memory than a server has
LONGEST_SHOWN = 60  # characters of a text in a message
# Not among them are EPS and other programs in disguise: Pillow has Ghostscript run those.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "MPO", "JPEG2000", "PPM"),
    *("AVIF", "HEIF"),
)
# Set in the process that answers `mlflow models serve`, and modules of such servers
SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
SERVERS = ("mlflow.pyfunc.scoring_server.app", "mlserver")
PATHS = "DETECTOR_ALLOW_PATHS"  # 1: a text may name a file; 0: never; unset: except in a server


class DetectorModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow has no types
    """Finds boxes in images; may be called by several threads at once.

    Input: a DataFrame with the column `image`; each cell is an encoded image (JPEG, PNG, ...) as
    bytes, as base64 text, as a `data:` URI or as a list of byte values; or an H x W x 3 uint8 RGB
    array (as nested lists too); or a file's path, which a server refuses.

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
            _use_own_settings()
        from ultralytics import YOLO

        self._model = YOLO(weights, task="detect")
        self._one_at_a_time = threading.Lock()  # else threads share Ultralytics' `conf`

    def predict(
        self, context: Any, model_input: Any, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Boxes of every image; see the class for the columns and the params.

        Raises:
            MlflowException: no column `image`, a cell that is no image, or a param out of range.
                A server answers it with status 400 and the words.
        """
        del context
        if "image" not in model_input:
            raise _refused(f"expected a column 'image', got {list(model_input)}")
        options = {"conf": 0.25, "iou": 0.7, **(params or {})}
        _check(options)
        # All are read before the first is looked at: a bad one costs no time
        images = [_pixels(cell, row) for row, cell in enumerate(_cells(model_input["image"]))]
        rows: list[tuple[Any, ...]] = []
        # One by one: in a batch of different sizes an image's padding, and so its boxes, would
        # depend on its neighbours.
        for row, pixels in enumerate(images):
            bgr = np.ascontiguousarray(pixels[..., ::-1])  # Ultralytics takes arrays as BGR
            with self._one_at_a_time:
                (found,) = self._model.predict(bgr, verbose=False, save=False, **options)
            rows.extend(_boxes(row, found))
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        return table.astype(COLUMNS)  # an empty table has no kinds of its own


def _use_own_settings() -> None:
    """Give Ultralytics a settings folder for this process, and no voice, network or pip."""
    if "YOLO_CONFIG_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="detector-")
        os.environ["YOLO_CONFIG_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("YOLO_VERBOSE", "false")  # it would speak on stdout
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")  # weights are data, and run no code


def _refused(words: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(words)


def _check(options: dict[str, Any]) -> None:
    for name in ("conf", "iou"):
        if not 0 <= options[name] <= 1:
            raise _refused(f"{name}: {options[name]}, expected 0 to 1")
    size = options.get("imgsz", 1)
    if not 1 <= size <= LARGEST_PX:
        raise _refused(f"imgsz: {size}, expected 1 to {LARGEST_PX} px")


def _cells(column: Any) -> list[Any]:
    """The images of the column.

    Of `{"inputs": {"image": [a, b]}}` MLflow's server makes one row, whose cell is the list.
    """
    cells = list(column)
    if len(cells) != 1 or isinstance(cells[0], (str, bytes)):
        return cells
    depth, leaf = 0, _unwrapped(cells[0])
    while isinstance(leaf, (list, tuple, np.ndarray)) and len(leaf):
        depth, leaf = depth + 1, leaf[0]
    several = depth == 1 if isinstance(leaf, str) else depth in SEVERAL
    return list(cells[0]) if several else cells


def _boxes(row: int, found: Any) -> list[tuple[Any, ...]]:
    boxes = found.boxes.cpu().numpy()
    return [
        (row, *map(float, corners), int(kind), found.names[int(kind)], float(confidence))
        for corners, kind, confidence in zip(boxes.xyxy, boxes.cls, boxes.conf, strict=True)
    ]


def _pixels(cell: Any, row: int) -> np.ndarray:
    """The image in a cell as an H x W x 3 uint8 RGB array."""
    if isinstance(cell, (str, os.PathLike)):
        return _of_text(cell, row)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return _decoded(bytes(cell), row)
    try:
        pixels = np.asarray(_unwrapped(cell))
    except ValueError:
        raise _refused(f"row {row}: its rows of pixels have different lengths") from None
    if not pixels.size or pixels.dtype.kind not in "uif":
        raise _refused(f"row {row}: no image: {_shown(cell)}")
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 255):  # noqa: PLR2004 - uint8's range
        raise _refused(f"row {row}: expected values from 0 to 255")
    if pixels.ndim == 1:  # an encoded image, byte by byte
        return _decoded(pixels.astype(np.uint8).tobytes(), row)
    if pixels.ndim != DIMENSIONS or pixels.shape[2] != CHANNELS:
        raise _refused(f"row {row}: expected an H x W x 3 array, got shape {pixels.shape}")
    return pixels.astype(np.uint8)


def _unwrapped(cell: Any) -> Any:
    # MLflow and pandas may turn nested lists into arrays of arrays
    if isinstance(cell, np.ndarray) and cell.dtype == object:
        return [_unwrapped(part) for part in cell]
    return cell


def _of_text(cell: Any, row: int) -> np.ndarray:
    """The image of a path, of base64 or of a `data:` URI."""
    text = os.fspath(cell)
    if text.startswith("data:"):
        head, _, encoded = text.partition(",")
        if not head.endswith(";base64"):
            raise _refused(f"row {row}: expected data:image/...;base64,..., got {_shown(head)}")
        return _decoded(_of_base64(encoded, row), row)
    if _paths_allowed():
        file = _file(text)
        if file is not None:
            return _decoded(file.read_bytes(), row, _shown(text))
    return _decoded(_of_base64(text, row), row, _shown(text))


def _file(text: str) -> Path | None:
    try:
        return Path(text) if Path(text).is_file() else None
    except (OSError, ValueError):
        return None  # base64 is too long for a name


def _paths_allowed() -> bool:
    """Whether a text may name a file: who asks a server must not see what lies on its disk."""
    if given := os.environ.get(PATHS, ""):
        return given.lower() in ("1", "true", "yes")
    return SERVING not in os.environ and not any(name in sys.modules for name in SERVERS)


def _of_base64(text: str, row: int) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        what = "no file and no base64" if _paths_allowed() else "no base64; files are not read here"
        raise _refused(f"row {row}: {_shown(text)} is {what}") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... "


def _decoded(encoded: bytes, row: int, what: str = "") -> np.ndarray:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(io.BytesIO(encoded), formats=known) as image:
            # As Ultralytics reads files: turned upright as the camera's tag says
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:
        # Ultralytics teaches Pillow formats whose readers may not be installed
        what = what or f"of {len(encoded)} bytes"
        raise _refused(f"row {row}: no image that can be read: {what}") from error


mlflow.models.set_model(DetectorModel())
