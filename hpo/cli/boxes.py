"""Boxes drawn on a picture; knows no model."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image

GOLDEN = 0.618034  # turn of the hue from class to class: neighbours look unlike each other
QUALITY = 92  # of JPEG and WebP
FONT_SHARE = 45  # a label's height is this part of the longer side


def draw(picture: Image, boxes: Sequence[Mapping[str, Any]]) -> Image:
    """A copy of the picture with each box and `name confidence` in its class's colour.

    Args:
        picture: RGB, upright.
        boxes: `x1`, `y1`, `x2`, `y2` in px, `class`, `name` and `confidence`.
    """
    from PIL import ImageDraw, ImageFont

    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    size = max(10, max(picture.size) // FONT_SHARE)
    font = ImageFont.load_default(size)
    # The surest last, on top
    for box in sorted(boxes, key=lambda one: float(one["confidence"])):
        colour, ink = _colours(int(box["class"]))
        corners = (box["x1"], box["y1"], box["x2"], box["y2"])
        pen.rectangle(corners, outline=colour, width=max(2, size // 6))
        label = f"{box['name']} {box['confidence']:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
        width, height = right - left + 4, bottom - top + 4
        # Above the box, or inside where there is no room; never beyond an edge
        x = max(0.0, min(box["x1"], picture.width - width))
        y = box["y1"] - height if box["y1"] >= height else box["y1"]
        pen.rectangle((x, y, x + width, y + height), fill=colour)
        pen.text((x + 2 - left, y + 2 - top), label, fill=ink, font=font)
    return drawn


def _colours(kind: int) -> tuple[tuple[int, int, int], str]:
    red, green, blue = (round(255 * part) for part in hsv_to_rgb(kind * GOLDEN % 1, 0.85, 0.95))
    bright = 0.3 * red + 0.59 * green + 0.11 * blue
    return (red, green, blue), "black" if bright > 128 else "white"  # noqa: PLR2004 - half of 255


def save(picture: Image, path: Path) -> None:
    """Write the picture, making its folder; thin lines stay clear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=QUALITY)
