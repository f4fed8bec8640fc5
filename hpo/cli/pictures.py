"""The image files that a command is given, and where pictures made of them go; opens no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.datasets.data_yaml import IMAGE_SUFFIXES
from hpo.errors import FaultsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

WRITTEN = (".jpg", ".jpeg", ".png", ".webp")  # others become PNG
_SHOWN = 10  # faults


@dataclass(frozen=True)
class Picture:
    """An image file.

    Attributes:
        path: as the user named it, or below the folder that they named.
        name: where it lies within a folder of results.
    """

    path: Path
    name: Path


def find_pictures(given: Sequence[Path]) -> list[Picture]:
    """The images among files and folders, in the order given and by name within a folder.

    Raises:
        UsageError: a path is not there, or there is no image.
        FaultsError: files that are no images; none is left out silently.
    """
    found: list[Picture] = []
    for path in given:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if _is_named_image(file))
            found += [Picture(file, file.relative_to(path)) for file in inside]
        elif path.is_file():
            found.append(Picture(path, path.relative_to(path.parent)))
        else:
            raise UsageError(f"IMAGE: {path}: no such file or folder")
    if not found:
        where = ", ".join(str(path) for path in given)
        raise UsageError(
            f"IMAGE: no image in {where}",
            hint=f"Files like 1.jpg are looked for: {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    faults = [f"{one.path}: no image that can be read" for one in found if not _opens(one.path)]
    if len(faults) > _SHOWN:
        faults = [*faults[:_SHOWN], f"... and {len(faults) - _SHOWN} more"]
    if faults:
        raise FaultsError("IMAGE", faults)
    return list({one.path.resolve(): one for one in found}.values())


def destinations(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """A file of its own for each picture, below the folder.

    Raises:
        UsageError: one would be written over an input.
    """
    inputs = {one.path.resolve() for one in pictures}
    taken: set[Path] = set()
    made = []
    for one in pictures:
        suffix = one.name.suffix if one.name.suffix.lower() in WRITTEN else ".png"
        wanted, number = folder / one.name.with_suffix(suffix), 1
        path = wanted
        while path in taken:  # the same name in two folders
            number += 1
            path = wanted.with_stem(f"{wanted.stem}-{number}")
        if path.resolve() in inputs:
            raise UsageError(
                f"--output: {path} is one of the images; it would be written over",
                hint="Name another folder.",
            )
        taken.add(path)
        made.append(path)
    return made


def upright(path: Path) -> Image:
    """The image as RGB, turned as the camera's tag says."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _is_named_image(file: Path) -> bool:
    return file.suffix[1:].lower() in IMAGE_SUFFIXES and file.is_file()


def _opens(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except Exception:  # noqa: BLE001 - readers raise anything on damaged bytes
        return False
