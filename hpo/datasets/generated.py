"""Draw datasets of circles, squares and triangles, each in a folder that is whole or absent.

The same seed gives the same bytes on every machine, as workers check the dataset's fingerprint: so
shapes are drawn by integer and exact floating-point arithmetic rather than by a drawing library,
and kept as BMP, whose bytes no compressor's version can change. Each image has random numbers of
its own, so that more training images leave the others as they were.
"""

from __future__ import annotations

import errno
import json
import secrets
import shutil
from typing import TYPE_CHECKING, Any

from hpo.datasets.data_yaml import SPLITS
from hpo.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

MARK = "made.json"  # what made the folder, with which parameters


def make(folder: Path, mark: Mapping[str, Any], fill: Callable[[Path], None]) -> bool:
    """Make `folder` by `fill`, unless equal parameters already made it.

    It is filled under another name beside its place and renamed, so an interrupted making leaves
    nothing that looks finished, and of two processes at once one wins and both get the same.

    Args:
        folder: where it shall be; absent, empty, or made with the same mark.
        mark: what makes it: a name and every parameter; plain JSON values.
        fill: writes the content into the folder it is given.

    Returns:
        Whether it was made now.

    Raises:
        UsageError: something else is in that place.
    """
    if stands(folder, mark):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    part.mkdir()
    try:
        fill(part)
        (part / MARK).write_text(json.dumps(dict(mark), indent=2) + "\n", encoding="utf-8")
        try:
            part.rename(folder)
        except OSError as error:
            lost_race = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not (lost_race and stands(folder, mark)):
                raise
            return False
        return True
    finally:
        shutil.rmtree(part, ignore_errors=True)


def stands(folder: Path, mark: Mapping[str, Any]) -> bool:
    """Whether `folder` is there, made with this mark.

    Raises:
        UsageError: something else is in that place.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder to be made")
    there = _mark(folder)
    if there == dict(mark):
        return True
    if not any(folder.iterdir()):
        return False
    if there is None:
        what = "is not empty, and was not made by this command"
    else:
        differ = sorted(k for k in {*there, *mark} if there.get(k) != mark.get(k))
        said = (f"{k} {there.get(k)} there, {mark.get(k)} asked" for k in differ)
        what = f"was made with other parameters: {'; '.join(said)}"
    raise UsageError(f"{folder} {what}", hint="Name another folder with `-o DIR`, or remove it.")


def _mark(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


NAMES = ("circle", "square", "triangle")
DRAWING = 1  # raise it when the same seed draws something else
SMALLEST_PX = 32  # of an image
LARGEST_PX = 4096
MOST_SHAPES = 4
SIDES = (0.2, 0.45)  # a shape's side as a part of the image's
OVERLAP = 0.1  # of the smaller of two boxes
GROUND = (30, 111)  # grey levels of a background's channels
CONTRAST = 90  # grey levels between a shape and what lies below it, in one channel at least
NOISE = 12  # grey levels up and down
TRIES = 40  # places looked at for one shape
SUPERSAMPLES = 4  # per pixel and axis, for smooth edges
HEADER = "# Made by `hpo data shapes`; paths are relative to this file."

Box = tuple[int, int, int, int]  # left, top, right, bottom in px, right and bottom excluded


def parameters(
    *, imgsz: int = 128, train: int = 200, val: int = 50, test: int = 50, seed: int = 0
) -> dict[str, Any]:
    """What decides a set of shapes, checked.

    Raises:
        UsageError: a size, count or seed that cannot be.
    """
    bounds = {"imgsz": (imgsz, SMALLEST_PX), "train": (train, 1), "val": (val, 1)}
    bounds |= {"test": (test, 0), "seed": (seed, 0)}
    for name, (value, least) in bounds.items():
        if value < least:
            raise UsageError(f"{name} {value}, expected {least} or more")
    if imgsz > LARGEST_PX:
        raise UsageError(f"imgsz {imgsz} px, expected {LARGEST_PX} or less")
    mark = {"made": "shapes", "drawing": DRAWING, "imgsz": imgsz}
    return {**mark, "train": train, "val": val, "test": test, "seed": seed}


def make_shapes(
    folder: Path,
    *,
    imgsz: int = 128,
    train: int = 200,
    val: int = 50,
    test: int = 50,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a dataset and return its data YAML; does nothing where these parameters made it.

    Args:
        folder: where; absent or empty.
        imgsz: an image's side in px.
        train: images to train on.
        val: images to validate on.
        test: images kept back, 0 for no such split.
        seed: another one draws other images.
        progress: called with (images drawn, images in all).

    Raises:
        UsageError: a parameter that cannot be, or something else in that place.
    """
    mark = parameters(imgsz=imgsz, train=train, val=val, test=test, seed=seed)
    make(folder, mark, lambda part: _fill(part, mark, progress))
    return folder / "data.yaml"


def _fill(
    folder: Path, mark: Mapping[str, Any], progress: Callable[[int, int], None] | None
) -> None:
    from PIL import Image

    splits = [name for name in SPLITS if mark[name]]
    total = sum(mark[name] for name in splits)
    done = 0
    for name in splits:
        images, labels = folder / "images" / name, folder / "labels" / name
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(mark[name]):
            pixels, rows = draw(mark["imgsz"], mark["seed"], SPLITS.index(name), number)
            Image.fromarray(pixels).save(images / f"{number:05d}.bmp")
            lines = [f"{cls} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for cls, x, y, w, h in rows]
            (labels / f"{number:05d}.txt").write_text("".join(lines), encoding="utf-8")
            done += 1
            if progress:
                progress(done, total)
    (folder / "data.yaml").write_text(_data_yaml(splits), encoding="utf-8")


def _data_yaml(splits: list[str]) -> str:
    places = [f"{name}: images/{name}" for name in splits]
    names = [f"  {number}: {name}" for number, name in enumerate(NAMES)]
    return "\n".join([HEADER, *places, "names:", *names]) + "\n"


def draw(
    imgsz: int, *seeds: int
) -> tuple[NDArray[np.uint8], list[tuple[int, float, float, float, float]]]:
    """One image and its labels.

    Args:
        imgsz: side in px.
        seeds: whole numbers that decide what is drawn.

    Returns:
        Pixels, imgsz x imgsz x 3 (RGB), and a row for each shape: class, then centre x, centre y,
        width and height as parts of the side.
    """
    import numpy as np

    rng = np.random.default_rng(seeds)
    canvas = _background(imgsz, rng)
    boxes: list[Box] = []
    rows = []
    for _ in range(int(rng.integers(1, MOST_SHAPES + 1))):
        box = _free_box(imgsz, boxes, rng)
        if box is None:
            break
        boxes.append(box)
        left, top, right, bottom = box
        cls = int(rng.integers(len(NAMES)))
        cover = _cover(NAMES[cls], right - left)[:, :, None]
        below = canvas[top:bottom, left:right]
        canvas[top:bottom, left:right] = below * (1 - cover) + _colour(below, rng) * cover
        centre = ((left + right) / 2 / imgsz, (top + bottom) / 2 / imgsz)
        rows.append((cls, *centre, (right - left) / imgsz, (bottom - top) / imgsz))
    canvas += rng.integers(-NOISE, NOISE + 1, canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), rows


def _background(imgsz: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A slope between two colours in a random direction, imgsz x imgsz x 3."""
    import numpy as np

    first, second = rng.integers(*GROUND, (2, 3)).astype(np.float64)
    along, down = rng.integers(0, 5, 2)
    ys, xs = np.mgrid[0:imgsz, 0:imgsz]
    slope = (along * xs + down * ys) / max(1, (along + down) * (imgsz - 1))
    painted: NDArray[np.float64] = first + slope[:, :, None] * (second - first)
    return painted


def _free_box(imgsz: int, boxes: list[Box], rng: np.random.Generator) -> Box | None:
    """A square that hides little of the others, or None where none was found."""
    low, high = (int(part * imgsz) for part in SIDES)
    for _ in range(TRIES):
        side = int(rng.integers(low, high + 1))
        left, top = (int(n) for n in rng.integers(0, imgsz - side + 1, 2))
        box = (left, top, left + side, top + side)
        if all(_overlap(box, other) <= OVERLAP for other in boxes):
            return box
    return None


def _overlap(a: Box, b: Box) -> float:
    """The common area as a part of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min(a[2] - a[0], b[2] - b[0])
    return max(0, width) * max(0, height) / smaller**2


def _cover(name: str, side: int) -> NDArray[np.float64]:
    """How much of each pixel the shape covers, side x side, 0 to 1; it touches all four edges."""
    import numpy as np

    fine = side * SUPERSAMPLES
    ys, xs = np.mgrid[0:fine, 0:fine] * 2 + 1  # sample centres in halves of a sample
    if name == "circle":
        inside = (xs - fine) ** 2 + (ys - fine) ** 2 <= fine**2
    elif name == "triangle":
        inside = np.abs(xs - fine) * 2 <= ys + 1
    else:
        inside = np.ones((fine, fine), dtype=bool)
    cells = inside.reshape(side, SUPERSAMPLES, side, SUPERSAMPLES)
    cover: NDArray[np.float64] = cells.mean(axis=(1, 3))
    return cover


def _colour(below: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A colour that stands out from the pixels below."""
    import numpy as np

    mean = np.rint(below.mean(axis=(0, 1)))
    while True:
        colour: NDArray[np.float64] = rng.integers(0, 256, 3).astype(np.float64)
        if np.abs(colour - mean).max() >= CONTRAST:
            return colour
