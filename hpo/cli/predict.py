"""`hpo predict`: what a registered model finds in images, as a table and as pictures."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.common import json_option, print_view, show
from hpo.cli.pictures import destinations, find_pictures, upright
from hpo.cli.project import opened
from hpo.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Engine

    from hpo.cli.pictures import Picture
    from hpo.tracking.registry import Version

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
    from dataclasses import replace

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
    from hpo.storage.postgres.queries import query

    if version.decision is None:
        return None
    with engine.connect() as connection:
        row = connection.execute(
            query("promotion_by_tag"), {"decision": version.decision}
        ).one_or_none()
    sha256 = None if row is None else row.evidence.get("weights_sha256")
    return None if sha256 is None else str(sha256)


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
        from hpo.cli.boxes import draw, save
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

    from hpo.cli.status_view import SIMULATED

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
