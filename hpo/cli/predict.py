"""`hpo predict`: what a registered model finds in images, as a table and as pictures."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.context import opened
from hpo.cli.terminal.options import json_option, print_view, show
from hpo.datasets.data_yaml import IMAGE_SUFFIXES
from hpo.errors import FaultsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image
    from sqlalchemy import Engine

    from hpo.tracking.registry import Version

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


FOLDER = Path("predictions")
SLOW_S = 2.0  # between two lines of progress
CORNERS = ("x1", "y1", "x2", "y2")


@click.command()
@click.argument("model")
@click.argument(
    "images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--save", is_flag=True, help="Draw the boxes into copies of the images.")
@click.option(
    "-o", "--output", "folder", metavar="DIR", type=click.Path(path_type=Path),
    help=f"Where the copies go, with --save or without (default: {FOLDER}).",
)  # fmt: skip
@click.option(
    "--conf", type=click.FloatRange(0, 1), default=0.25, show_default=True,
    help="Least confidence of a box.",
)  # fmt: skip
@click.option(
    "--iou", type=click.FloatRange(0, 1), default=0.7, show_default=True,
    help="Overlap above which the less confident of two boxes goes.",
)  # fmt: skip
@json_option
def predict(
    model: str,
    images: tuple[Path, ...],
    save: bool,
    folder: Path | None,
    conf: float,
    iou: float,
    as_json: bool,
) -> None:
    """Find boxes in images with a registered model, and draw them.

    MODEL is a registered model's NAME (its champion), NAME@ALIAS or NAME/VERSION; IMAGE a file or
    a folder. Boxes are in px of the image as given, turned upright. Nothing is sent anywhere.
    """
    pictures = find_pictures(images)
    wanted = folder is not None or save
    paths = destinations(pictures, folder or FOLDER) if wanted else []
    with (
        tempfile.TemporaryDirectory(prefix="hpo-predict-") as scratch,
        contextlib.redirect_stdout(sys.stderr),  # what a model's libraries say is no result
    ):
        version, loaded = _load(model, Path(scratch))
        found = _Prediction(version, loaded, {"conf": conf, "iou": iou})
        shown = found.of_all(pictures, paths)
    document = {
        "model": version.model,
        "version": version.number,
        "simulated": found.simulated,
        "params": found.params,
        "images": shown,
    }
    show(as_json, document, lambda: _print(document, folder or FOLDER if wanted else None))


def _load(text: str, scratch: Path) -> tuple[Version, Any]:
    from hpo.promotion.champion import alias_of
    from hpo.storage.postgres.engine import storage_url
    from hpo.tracking.client import open_client
    from hpo.tracking.loading import find, load, read_reference

    reference = read_reference(text)
    with opened() as (settings, engine):
        if reference.alias is None and reference.number is None:
            with engine.connect() as connection:
                reference = replace(reference, alias=alias_of(connection, reference.model))
        client = open_client(settings, storage_url(settings))
        version = find(client, reference)
        _say(f"loading {version.model} version {version.number}")
        return version, load(client, version, scratch, _recorded_weights(engine, version))


def _recorded_weights(engine: Engine, version: Version) -> str | None:
    """The sha256 of a promoted version's weights by our own record: MLflow's tags are anybody's."""
    from hpo.promotion.evidence import Evidence
    from hpo.promotion.ledger import promotion_of

    if version.decision is None:
        return None
    with engine.connect() as connection:
        row = promotion_of(connection, version.decision)
    return None if row is None else Evidence.from_json(row.evidence).weights_sha256


def _say(text: str) -> None:
    click.echo(f"hpo: {text}", err=True)


@dataclass(frozen=True)
class _Prediction:
    """A loaded version, and how it is asked."""

    version: Version
    loaded: Any
    wanted: Mapping[str, float]

    @property
    def simulated(self) -> bool:
        return self.version.tags.get("simulated") == "true"

    @property
    def params(self) -> dict[str, Any]:
        from hpo.tracking.loading import taken

        return taken(self.loaded, self.wanted)

    def of_all(self, pictures: Sequence[Picture], paths: Sequence[Path]) -> list[dict[str, Any]]:
        """What is found in each picture; drawn into `paths` where there are any."""
        said, shown = time.monotonic(), []
        for index, picture in enumerate(pictures):
            shown.append(self._of(picture, paths[index] if paths else None))
            if time.monotonic() - said > SLOW_S:
                said = time.monotonic()
                _say(f"{index + 1} of {len(pictures)} images")
        return shown

    def _of(self, picture: Picture, path: Path | None) -> dict[str, Any]:
        from hpo.tracking.loading import boxes_in

        try:
            boxes = boxes_in(self.loaded, picture.path.read_bytes(), self.params)
            image = upright(picture.path)
        except (OSError, ValueError) as error:
            raise UsageError(f"{picture.path}: {error}") from error
        if path is not None:
            save(draw(image, boxes), path)
        return {
            "image": str(picture.path),
            "width": image.width,
            "height": image.height,
            "boxes": boxes,
            "saved": None if path is None else str(path),
        }


def _print(document: dict[str, Any], folder: Path | None) -> None:
    from rich.table import Table

    from hpo.cli.terminal.views import SIMULATED

    if document["simulated"]:
        click.echo(SIMULATED)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("image", overflow="fold")
    table.add_column("class")
    table.add_column("confidence", justify="right")
    table.add_column("box: left, top, right, bottom in px")
    for one in document["images"]:
        if not one["boxes"]:
            table.add_row(one["image"], "nothing found", "", "")
        for box in one["boxes"]:
            corners = ", ".join(f"{box[name]:.1f}" for name in CORNERS)
            table.add_row(one["image"], box["name"], f"{box['confidence']:.3f}", corners)
    print_view(table)
    boxes, images = sum(len(one["boxes"]) for one in document["images"]), len(document["images"])
    click.echo(
        f"{boxes} box{'es' * (boxes != 1)} in {images} image{'s' * (images != 1)}, "
        f"{document['model']} version {document['version']}"
    )
    if folder is not None:
        click.echo(f"Drawn into {folder}/.")


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
