"""One label file -> its boxes and its faults; knows no image and no dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
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
