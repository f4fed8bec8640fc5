"""Draw a decision's pictures: test images with boxes, and confusion matrices."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.evaluation.confusion import CONFIDENCE, OVERLAP, by_image, confusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from hpo.evaluation.confusion import ImageMatches
    from hpo.evaluation.detections import Detections
    from hpo.promotion.report.context import ReportContext

SHOWN = 6
LONGER_PX = 460
MOST_BYTES = 90_000  # of one picture: twelve of them and the rest stay below 2 MB
_QUALITIES = (82, 65, 45, 25)
# Of the palette of Okabe and Ito, which colour-blind people tell apart
_RIGHT, _WRONG, _TRUE, _EDGE = "#56b4e9", "#d55e00", "#ffffff", "#000000"
_DASH_PX = 7
_TEXT_PX = 20
_MOST_LABELS = 25  # in one picture: more hide what they name


@dataclass(frozen=True, kw_only=True)
class ShownSide:
    """One model's detections on a test image: the picture as JPEG in base64, size and words."""

    base64: str
    width: int
    height: int
    words: str


@dataclass(frozen=True)
class ShownImage:
    """A test image as each model saw it."""

    name: str
    sides: list[ShownSide]


@dataclass(frozen=True)
class Samples:
    """Test images with boxes; `single` where there is one model."""

    note: str
    images: list[ShownImage]
    single: bool


@dataclass(frozen=True)
class _Side:
    title: str
    found: Detections
    matches: list[ImageMatches]


def samples(context: ReportContext) -> Samples | None:
    """About six images on which the two differ most; None where the images are not here."""
    if context.pictures is None or context.challenger is None:
        return None
    sides = [_Side("Challenger", context.challenger, by_image(context.challenger))]
    if context.same_images and context.champion is not None:
        title = f"Champion, version {context.decision.previous_version}"
        sides.append(_Side(title, context.champion, by_image(context.champion)))
    drawn = []
    for at in chosen([side.matches for side in sides]):
        picture = context.pictures(context.challenger.images[at])
        if picture is not None:
            with picture:
                drawn.append(_sample(picture, at, sides))
    if not drawn:
        return None
    which = "on which the two differ most" if len(sides) > 1 else "with the most mistakes"
    note = (
        f"The {len(drawn)} test images {which}, detections above {CONFIDENCE:g} confidence. Blue: "
        "right. Orange and !: a wrong class, or nothing there. Dashed white: the true boxes."
    )
    return Samples(note, drawn, single=len(sides) == 1)


def chosen(matches: Sequence[Sequence[ImageMatches]], most: int = SHOWN) -> list[int]:
    """Indices of the images to show: where mistakes differ most, then where there are most."""
    first = matches[0]

    def rank(at: int) -> tuple[int, int, int]:
        mistakes = [side[at].mistakes for side in matches]
        return (min(mistakes) - max(mistakes), -sum(mistakes), at)

    return sorted(range(len(first)), key=rank)[:most]


def drawn_on(picture: Image, found: Detections, at: int, matches: ImageMatches) -> Image:
    """The image, scaled, with its true boxes and its counted detections."""
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    height, width = (int(side) for side in found.sizes[at])
    scale = LONGER_PX / max(height, width, 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    canvas = picture.convert("RGB").resize(size, Images.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_TEXT_PX)
    for truth in (found.true_image == at).nonzero()[0].tolist():
        _dashed(draw, [float(edge) * scale for edge in found.true_box[truth]])
    boxes = [(one, True) for one in matches.right] + [(one, False) for one in matches.wrong]
    boxes.sort(key=lambda pair: float(found.confidence[pair[0]]))
    for rank, (detection, right) in enumerate(boxes):
        corners = [float(edge) * scale for edge in found.box[detection]]
        _solid(draw, corners, _RIGHT if right else _WRONG)
        if len(boxes) - rank <= _MOST_LABELS:
            name = found.names[int(found.kind[detection])]
            words = f"{'' if right else '! '}{name} {found.confidence[detection]:.2f}"
            _label(draw, corners, words, font, _RIGHT if right else _WRONG)
    return canvas


def encoded(picture: Image) -> bytes:
    """Encode a picture as JPEG of at most MOST_BYTES, coarser or smaller where it needs that."""
    while True:
        for quality in _QUALITIES:
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=quality, optimize=True)
            if stream.tell() <= MOST_BYTES:
                return stream.getvalue()
        picture = picture.resize((max(picture.width // 2, 1), max(picture.height // 2, 1)))


def _sample(picture: Image, at: int, sides: Sequence[_Side]) -> ShownImage:
    shown = []
    for side in sides:
        matches = side.matches[at]
        canvas = drawn_on(picture, side.found, at, matches)
        words = (
            f"{side.title}: {len(matches.right)} right, {len(matches.wrong)} wrong, "
            f"{len(matches.missed)} missed"
        )
        data = base64.b64encode(encoded(canvas)).decode("ascii")
        shown.append(ShownSide(base64=data, width=canvas.width, height=canvas.height, words=words))
    return ShownImage(sides[0].found.images[at], shown)


def _ordered(corners: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = corners
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _solid(draw: ImageDraw, corners: Sequence[float], colour: str) -> None:
    x1, y1, x2, y2 = _ordered(corners)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_EDGE, width=6)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=4)


def _dashed(draw: ImageDraw, corners: Sequence[float]) -> None:
    x1, y1, x2, y2 = _ordered(corners)
    for start, end in (
        ((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1)),
    ):  # fmt: skip
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1.0)
        draw.line((*start, *end), fill=_EDGE, width=5)
        at = 0.0
        while at < length:
            shares = (at / length, min(at + _DASH_PX, length) / length)
            points = [
                (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
                for share in shares
            ]
            draw.line((*points[0], *points[1]), fill=_TRUE, width=3)
            at += 2 * _DASH_PX


def _label(draw: ImageDraw, corners: Sequence[float], words: str, font: Any, colour: str) -> None:
    x1, y1, _, _ = _ordered(corners)
    left, top, right, bottom = draw.textbbox((0, 0), words, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(min(x1, draw.im.size[0] - width), 0)
    y = y1 - height if y1 >= height else y1
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    fill = _EDGE if colour == _RIGHT else _TRUE
    draw.text((x + 2 - left, y + 2 - top), words, font=font, fill=fill)


MOST_CLASSES = 10
BACKGROUND = "background"
_WIDE = 7  # from so many columns on they stand below each other


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: its columns, and each row's name with its counts."""

    title: str
    names: list[str]
    rows: list[tuple[str, list[int]]]


@dataclass(frozen=True)
class Matrices:
    """Confusion matrices, one for each model; `wide` where they stand below each other."""

    note: str
    matrices: list[Matrix]
    wide: bool


def matrices(context: ReportContext) -> Matrices | None:
    """The challenger's beside the champion's; None where no detections are known."""
    shown = [
        (title, found)
        for title, found in (
            ("Challenger", context.challenger),
            (f"Champion, version {context.decision.previous_version}", context.champion),
        )
        if found is not None
    ]
    if not shown:
        return None
    kept = _frequent(shown[0][1])
    drawn = [_matrix(title, found, kept) for title, found in shown]
    note = (
        "A row is a true class, a column what was found in its place: detections above "
        f"{CONFIDENCE:g} confidence that overlap a true box by more than {OVERLAP:g}. Each row "
        "adds up to 100%, the small figures are counts. Column background: missed. Row background: "
        "found where nothing is."
    )
    return Matrices(note, drawn, wide=len(kept) + 1 >= _WIDE)


def _frequent(found: Detections) -> list[int]:
    """The classes with the most true boxes, in the order of the classes."""
    counts = np.bincount(found.true_kind, minlength=len(found.names))
    return sorted(np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist())


def _matrix(title: str, found: Detections, kept: list[int]) -> Matrix:
    counts = confusion(found)
    names = [found.names[kind] for kind in kept if kind < len(found.names)]
    if len(found.names) > len(names):
        counts = _merged(counts, kept)
        names.append(f"{len(found.names) - len(kept)} others")
    names.append(BACKGROUND)
    return Matrix(title, names, list(zip(names, counts.tolist(), strict=True)))


def _merged(counts: NDArray[Any], kept: list[int]) -> NDArray[Any]:
    """The matrix with all classes but the kept ones as one."""
    last = len(counts) - 1
    group = np.full(len(counts), len(kept))
    group[kept] = np.arange(len(kept))
    group[last] = len(kept) + 1
    merged = np.zeros((len(kept) + 2, len(kept) + 2), dtype=np.int64)
    np.add.at(merged, (group[:, None], group[None, :]), counts)
    return merged
