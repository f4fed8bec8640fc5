"""Store every box that a model found on a split, and every true box, in one file.

Figures are computed from this alone (`hpo.evaluation.average_precision`), so that they can be
computed again, of any sample of the images.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from hpo.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Overlaps (intersection over union) at which a detection is matched, as COCO and Ultralytics do
OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_SCHEME = 1
# RuntimeError: flipped bits can name a compression or an encryption that zipfile does not know
_BROKEN = (OSError, ValueError, KeyError, EOFError, BadZipFile, RuntimeError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Detections:
    """One model on n images: m detections, t true boxes.

    Attributes:
        images: n names of images, unique; as loaded, the same for every model on the same split,
            wherever the dataset lay: from the deepest folder that holds them all.
        names: class names by class number.
        sizes: (n, 2) int32, height and width in px.
        image: (m,) int32, index of each detection's image.
        box: (m, 4) float32, x1 y1 x2 y2 in px of the image as given.
        confidence: (m,) float32.
        kind: (m,) int32, the predicted class.
        correct: (m, 10) bool, whether it matches a true box at each of OVERLAPS; matched within
            its image by the trainer, one detection a true box.
        true_image: (t,) int32.
        true_box: (t, 4) float32.
        true_kind: (t,) int32.
    """

    images: tuple[str, ...]
    names: tuple[str, ...]
    sizes: NDArray[Any]
    image: NDArray[Any]
    box: NDArray[Any]
    confidence: NDArray[Any]
    kind: NDArray[Any]
    correct: NDArray[Any]
    true_image: NDArray[Any]
    true_box: NDArray[Any]
    true_kind: NDArray[Any]

    def save(self, path: Path) -> None:
        """Write the detections as a compressed NumPy archive; equal ones give equal bytes."""
        arrays: dict[str, Any] = {
            item.name: np.asarray(getattr(self, item.name)) for item in fields(self)
        }
        with path.open("wb") as stream:
            np.savez_compressed(stream, scheme=np.array(_SCHEME), **arrays)

    @classmethod
    def load(cls, path: Path) -> Detections:
        """Read an archive that `save` wrote.

        Raises:
            WeightsError: the file is not such an archive, or was cut short.
        """
        try:
            # A path would be left open where the archive is broken
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                scheme = int(stored["scheme"])
                arrays = {item.name: stored[item.name] for item in fields(cls)}
        except _BROKEN as error:
            raise WeightsError(f"{path} holds no detections: {error}") from error
        if scheme != _SCHEME:
            raise WeightsError(f"{path} holds detections of scheme {scheme}, expected {_SCHEME}")
        for name in ("images", "names"):
            arrays[name] = tuple(str(item) for item in arrays[name])
        return cls(**arrays | {"images": _within(arrays["images"])})


def _within(images: tuple[str, ...]) -> tuple[str, ...]:
    """The names without the folders that all have in common.

    A copy of a dataset may hold a split in another folder than the original.
    """
    if not images:
        return images
    top = os.path.commonpath([f"/{PurePosixPath(name).parent}" for name in images])
    return tuple(str(PurePosixPath(f"/{name}").relative_to(top)) for name in images)
