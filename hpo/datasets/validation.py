"""Find every fault of a dataset at once: its YAML, its images and its label files."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.datasets.data_yaml import Dataset, Split, label_path, load
from hpo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

BOX_COLUMNS = 5  # class, centre x, centre y, width, height
POLYGON_COLUMNS = 7  # class and at least three corners
TOLERANCE = 0.01  # of the image's side; what Ultralytics forgives outside [0, 1]


@dataclass(frozen=True)
class Label:
    """One object of a label file.

    Attributes:
        cls: class number.
        points: the numbers after it, as parts of the image's width and height: a box's centre x,
            centre y, width and height, or a polygon's corners x, y, x, y, ...
    """

    cls: int
    points: tuple[float, ...]

    def box(self) -> tuple[float, float, float, float]:
        """Centre x, centre y, width and height; of a polygon, the box around it."""
        if len(self.points) < POLYGON_COLUMNS - 1:
            x, y, w, h = self.points
            return x, y, w, h
        xs, ys = self.points[::2], self.points[1::2]
        left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
        return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def read(
    file: Path, names: Sequence[str], keypoint_columns: int = 0
) -> tuple[list[Label], list[str]]:
    """The objects of a label file and what is wrong with it.

    Args:
        file: an existing label file; an empty one says that the image shows nothing.
        names: class names by class number.
        keypoint_columns: numbers after the box in a pose row, which are left out.

    Returns:
        Objects of the good lines, and one sentence a fault, each starting with the line's number.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return [], ["not text in UTF-8"]
    except PermissionError as error:
        return [], [f"cannot be read: {error.strerror}"]
    lines = list(enumerate(text.splitlines(), start=1))
    rows = [(number, line.split()) for number, line in lines if line.strip()]
    labels, faults = [], []
    for number, row in rows:
        label, fault = _row(row, names, keypoint_columns)
        if label is not None:
            labels.append(label)
        if fault:
            faults.append(f"line {number}: {fault}")
    # Ultralytics reads a file as boxes or as polygons, and drops the image of one that is both
    kinds = {len(label.points) < POLYGON_COLUMNS - 1 for label in labels}
    if len(kinds) > 1:
        faults.append("boxes and polygons in one file; expected either")
    return labels, faults


def _row(row: list[str], names: Sequence[str], keypoints: int) -> tuple[Label | None, str]:
    if keypoints and len(row) == BOX_COLUMNS + keypoints:
        row = row[:BOX_COLUMNS]
    if len(row) != BOX_COLUMNS and (len(row) < POLYGON_COLUMNS or len(row) % 2 == 0):
        return None, f"{_count(len(row))}, expected 5: class, centre x, centre y, width, height"
    try:
        numbers = [float(cell) for cell in row]
    except ValueError:
        return None, f"'{' '.join(row)}', expected 5 numbers"
    cls, points = numbers[0], numbers[1:]
    if not math.isfinite(cls) or cls != int(cls) or not 0 <= cls < len(names):
        return None, f"class {row[0]}, expected 0 to {len(names) - 1} ({_short(names)})"
    for cell, value in zip(row[1:], points, strict=True):
        if not -TOLERANCE <= value <= 1 + TOLERANCE:  # NaN is outside, too
            return None, f"coordinate {cell}, expected 0 to 1 (a part of the image's side)"
    if len(points) == BOX_COLUMNS - 1 and min(points[2:]) < 0:
        return None, f"size {' x '.join(row[3:])}, expected 0 to 1"
    return Label(int(cls), tuple(points)), ""


def _count(numbers: int) -> str:
    return "1 number" if numbers == 1 else f"{numbers} numbers"


def _short(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


MOST_FAULTS = 20  # told at once by require(); a wrong class count breaks every file alike


def check(
    yaml_path: Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Every fault of a dataset, one sentence each; [] for a good one.

    Args:
        yaml_path: an Ultralytics data YAML.
        splits: the splits that are needed; others are not looked at.
        progress: called with (images looked at, images in all).
    """
    try:
        dataset = load(yaml_path)
    except DatasetError as error:
        return list(error.faults)
    faults = [f"{name}: missing" for name in splits if name not in dataset.splits]
    needed = [dataset.splits[name] for name in splits if name in dataset.splits]
    total, done = sum(len(split.images) for split in needed), 0
    for split in needed:
        for found in _split(dataset, split):
            faults += found
            done += 1
            if progress:
                progress(min(done, total), total)
    return faults


def require(yaml_path: Path, *, splits: Sequence[str] = ("train", "val")) -> None:
    """Go on only with a good dataset.

    Raises:
        DatasetError: every fault, the first twenty of them in words.
    """
    faults = check(yaml_path, splits=splits)
    if faults:
        raise refusal(yaml_path, faults)


def refusal(yaml_path: Path, faults: Sequence[str]) -> DatasetError:
    """The error for these faults, naming the first twenty."""
    hint = f"`hpo data check {yaml_path}` tells whether it is mended."
    error = DatasetError(str(yaml_path), faults, hint=hint)
    if len(faults) > MOST_FAULTS:
        told = "".join(f"\n  - {fault}" for fault in faults[:MOST_FAULTS])
        more = len(faults) - MOST_FAULTS
        error.args = (f"{yaml_path}: {len(faults)} faults{told}\n  - and {more} more",)
    return error


def leaks(yaml_path: Path) -> list[str]:
    """Images whose very bytes lie in more than one split: the figures of `val` flatter then.

    No fault: Ultralytics' own sample sets validate on what they train on.
    """
    from hpo.datasets.fingerprint import digest

    dataset = load(yaml_path)
    sizes = Counter(
        image.stat().st_size
        for split in dataset.splits.values()
        for image in set(split.images)
        if image.is_file()
    )
    first: dict[bytes, tuple[str, Path]] = {}
    said = []
    for split in dataset.splits.values():
        for image in split.images:
            # Only images of equal size can be equal: few are read of a photographed set
            if not image.is_file() or sizes[image.stat().st_size] < 2:  # noqa: PLR2004 - a pair
                continue
            name, twin = first.setdefault(digest(image), (split.name, image))
            if name != split.name:
                here, there = dataset.relative(image), dataset.relative(twin)
                said.append(f"{split.name}: {here} is the same image as {there} of {name}")
    return said


def _split(dataset: Dataset, split: Split) -> Iterator[list[str]]:
    """The faults of each image with its label file, and at last those of the split as a whole."""
    labelled, objects, sound = 0, 0, True
    for image in split.images:
        fault = unreadable(image)
        faults = [f"{dataset.relative(image)}: {fault}"] if fault else []
        file = label_path(image)
        if file.is_file():
            labelled += 1
            found, wrong = read(file, dataset.names, dataset.keypoint_columns)
            objects += len(found)
            sound = sound and not wrong
            faults += [f"{dataset.relative(file)}: {fault}" for fault in wrong]
        yield [f"{split.name}: {fault}" for fault in faults]
    whole = list(split.faults)
    if whole and not split.images and dataset.keys.get("download"):
        whole.append(f"{split.name}: the YAML's `download:` is not run; fetch the images first")
    if split.images and not labelled:
        wanted, count = label_path(split.images[0]), len(split.images)
        whole.append(f"{split.name}: none of {count} images has a label file; expected {wanted}")
    elif split.images and not objects and sound:
        whole.append(f"{split.name}: {labelled} label files without a single object")
    yield whole


def unreadable(image: Path) -> str:
    """Why an image's header cannot be read, or ""."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(image):
            return ""
    except FileNotFoundError:
        return "no such image"
    except (UnidentifiedImageError, ImportError):  # Ultralytics teaches Pillow to ask for plug-ins
        # Formats that only OpenCV or a plug-in opens are the trainer's to judge
        lenient = image.suffix.lower() in {".dng", ".heic", ".heif", ".jp2", ".avif"}
        return "" if lenient else "not an image that can be read"
    except (OSError, ValueError, SyntaxError) as error:
        return f"not an image that can be read ({error})"
