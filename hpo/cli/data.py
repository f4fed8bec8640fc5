"""`hpo data`: make, check, show, split, fingerprint, push and list datasets."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpo.cli.terminal.options import json_option, print_json, print_view, progress, show
from hpo.datasets.generated import LARGEST_PX, SMALLEST_PX, parameters
from hpo.errors import DatasetError, MismatchError, UsageError
from hpo.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Engine

    from hpo.datasets.held_out import HeldOut
    from hpo.datasets.remote import Pushed
    from hpo.datasets.summary import DatasetSummary
    from hpo.studies.store import Study


@click.command("push")
@click.argument("name", metavar="[DATA]", required=False)
@click.option("--study", "study_name", metavar="NAME", help="The study whose dataset it is to be.")
@click.option("--again", is_flag=True, help="Put it there anew: mends an archive that was altered.")
@json_option
def push_command(name: str | None, study_name: str | None, *, again: bool, as_json: bool) -> None:
    """Put a dataset into the artifact store, for machines that lack it.

    A worker whose machine lacks a study's dataset fetches it once into a local cache. Where it is
    there already, in its size, nothing is done, unless --again asks for it. With --study, DATA must
    be what that study was created with; without DATA it is the study's own path. The built-in set
    is drawn on each machine and needs no push.
    """
    from hpo.storage.artifacts.opening import open_store
    from hpo.storage.postgres import schema
    from hpo.storage.postgres.engine import connect
    from hpo.storage.postgres.errors import explained
    from hpo.studies.store import load_study

    settings = Settings.read()
    if name is None and study_name is None:
        raise UsageError("which dataset?", hint="`hpo data push DATA`, or `--study NAME`.")
    settings.home.mkdir(parents=True, exist_ok=True)
    engine = connect(settings, create=True)
    try:
        with explained(engine):
            schema.upgrade(engine)
            study = None if study_name is None else load_study(engine, study_name)
            data = _meant(name, study, settings)
            if data is None:
                _drawn(study.spec.data if study else name, as_json=as_json)
                return
            open_store(settings).require_writable()
            found, new = _pushed(engine, settings, data, study, again=again)
    finally:
        engine.dispose()
    place = open_store(settings).place
    document = {"data": data, "pushed": new, "place": place, **_document(found)}
    document.pop("studies")

    def text() -> None:
        from hpo.datasets.remote import size_text

        done = "Pushed" if new else "Is there already, nothing to push:"
        click.echo(f"{done} {data}: {_images(found)}, {size_text(found.bytes)}, in {place}")
        click.echo(f"  fingerprint {found.fingerprint}")

    show(as_json, document, text)


@click.command("list")
@json_option
def list_command(*, as_json: bool) -> None:
    """List the datasets in the artifact store: content, size, when, studies that use it."""
    from hpo.cli.terminal.context import opened
    from hpo.datasets.cache import DatasetCache
    from hpo.datasets.remote import all_pushed

    with opened() as (settings, engine):
        found = all_pushed(engine)
        here = DatasetCache(settings).entries()
    document = [_document(one) | {"cached": one.fingerprint in here} for one in found]
    show(as_json, document, lambda: _print_pushed(found, here))


def _meant(name: str | None, study: Study | None, settings: Settings) -> Path | None:
    """The data YAML meant; None for a built-in set.

    Raises:
        UsageError: the study has no dataset.
    """
    from hpo.datasets.builtin import BUILT_IN, resolve

    if study is not None and study.spec.data is None:
        raise UsageError(f"the study '{study.name}' needs no dataset")
    if name is not None:
        return None if name in BUILT_IN else resolve(name, home=settings.home, base=Path.cwd())
    own = str(study.spec.data) if study else ""
    return None if own in BUILT_IN else resolve(own, home=settings.home, base=settings.home.parent)


def _pushed(
    engine: Engine, settings: Settings, data: Path, study: Study | None, *, again: bool
) -> tuple[Pushed, bool]:
    from hpo.datasets.fingerprint import fingerprint
    from hpo.datasets.remote import push
    from hpo.promotion.ledger import actor
    from hpo.storage.artifacts.opening import open_store

    with progress("files read") as told:
        content = fingerprint(data, home=settings.home, progress=told)
    if study is not None and content != study.fingerprint:
        raise MismatchError(
            f"the dataset {data} has the fingerprint {content[:12]}, the study '{study.name}' was "
            f"created with {(study.fingerprint or 'none')[:12]}",
            hint="Push the data as it was when the study was created.",
        )
    with progress("files packed") as told:
        return push(
            engine, open_store(settings), data, content,
            scratch=settings.dataset_cache, by=actor(), again=again, progress=told,
        )  # fmt: skip


def _drawn(name: str | None, *, as_json: bool) -> None:
    document = {"data": name, "pushed": False}
    said = f"{name} is drawn on each machine: nothing to push"
    show(as_json, document, lambda: click.echo(said))


def _document(found: Pushed) -> dict[str, Any]:
    document = asdict(found)
    del document["keys"]
    return document | {"pushed_at": found.pushed_at.isoformat(timespec="seconds")}


def _print_pushed(found: list[Pushed], here: dict[str, int]) -> None:
    from rich.table import Table

    from hpo.datasets.remote import size_text

    if not found:
        click.echo("No dataset was pushed. `hpo data push DATA` does that.")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("fingerprint", "images", "size", "pushed", "by", "studies", "here"):
        table.add_column(title)
    for one in found:
        table.add_row(
            one.fingerprint[:12], str(sum(one.images.values())), size_text(one.bytes),
            one.pushed_at.isoformat(" ", "minutes"), one.pushed_by, ", ".join(one.studies),
            "yes" if one.fingerprint in here else "",
        )  # fmt: skip
    print_view(table)


def _images(found: Pushed) -> str:
    return ", ".join(f"{count} {split}" for split, count in found.images.items()) + " images"


WARNINGS_TOLD = 10
DEFAULTS = parameters()
F = TypeVar("F", bound="Callable[..., object]")
data_argument = click.argument("name", metavar="DATA")
output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Folder to make."
)

FEW = 20  # test images: with fewer hardly any gain can be shown


@click.group()
def data() -> None:
    """Make, fingerprint, check and push datasets.

    DATA is the built-in set `shapes`, an Ultralytics data YAML, or a folder with a data.yaml.
    """


data.add_command(push_command)
data.add_command(list_command)


def _number(name: str, least: int, text: str, most: int | None = None) -> Callable[[F], F]:
    """An option of `hpo data shapes` that is a whole number."""
    kind, default = click.IntRange(least, most), DEFAULTS[name]
    return click.option(f"--{name}", type=kind, default=default, show_default=True, help=text)


@data.command()
@_number("imgsz", SMALLEST_PX, "An image's side in px.", LARGEST_PX)
@_number("train", 1, "Images to train on.")
@_number("val", 1, "Images to validate on.")
@_number("test", 0, "Images kept back.")
@_number("seed", 0, "Another one draws other images.")
@output_option
@json_option
def shapes(output: Path | None, as_json: bool, **asked: int) -> None:
    """Draw circles, squares and triangles.

    Without -o, into datasets/shapes. The built-in set `shapes` has these defaults and is made
    below .hpo when it is first used.
    """
    from hpo.datasets.generated import make_shapes, stands

    folder = output or Path("datasets/shapes")
    there = stands(folder, parameters(**asked))
    with progress("images drawn") as told:
        path = make_shapes(folder, **asked, progress=told)
    _made(path, there, as_json)


@data.command("tiny-person")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A COCO128 on this machine; without it, COCO128 is downloaded.",
)
@output_option
@json_option
def tiny_person(source: Path | None, output: Path | None, as_json: bool) -> None:
    """Make 60 images of people from COCO128.

    Class person only, 320 px, 40 to train, 10 to validate, 10 to test, always the same ones.
    Without -o, into datasets/tiny-person.
    """
    from hpo.datasets import coco
    from hpo.datasets.coco import MARK, make_tiny_person
    from hpo.datasets.generated import stands

    folder = output or Path("datasets/tiny-person")
    there = stands(folder, MARK)
    path = folder / "data.yaml"
    if source:
        path = make_tiny_person(source, folder)
    elif not there:
        url = coco.address()
        click.echo(f"downloading {url}", err=True)
        with progress("bytes") as told, coco.downloaded(url, progress=told) as found:
            path = make_tiny_person(found, folder)
    _made(path, there, as_json)


@data.command("fingerprint")
@data_argument
@json_option
def fingerprint_command(name: str, as_json: bool) -> None:
    """Print the hash of a dataset's content.

    A copy elsewhere has the same one; another image, label, class name or split gives another.
    """
    from hpo.datasets.fingerprint import fingerprint

    path, home = _resolved(name)
    with progress("files read") as told:
        found = fingerprint(path, home=home, progress=told)
    show(as_json, {"data": path, "fingerprint": found}, lambda: click.echo(found))


@data.command("check")
@data_argument
@json_option
def check_command(name: str, as_json: bool) -> None:
    """Look for every fault of a dataset.

    Missing or unreadable images, malformed labels, classes and coordinates out of range. Exits
    with 0 where there is none, else with 2 and a list of them. Also says whether the test split
    can judge a promotion.
    """
    from hpo.datasets.data_yaml import load
    from hpo.datasets.validation import check, leaks, refusal

    path, home = _resolved(name)
    splits = tuple(load(path).splits)
    with progress("images looked at") as told:
        faults = check(path, splits=splits, progress=told)
    warnings = [] if faults else leaks(path)
    held, why = (None, []) if faults else _held_out(path, home)
    if as_json:
        found = {"data": path, "faults": faults, "warnings": warnings}
        print_json(found | {"held_out": held and asdict(held), "held_out_faults": why})
    if faults:
        raise refusal(path, faults)
    if not as_json:
        for warning in warnings[:WARNINGS_TOLD]:
            click.echo(f"warning: {warning}")
        if len(warnings) > WARNINGS_TOLD:
            click.echo(f"warning: and {len(warnings) - WARNINGS_TOLD} more images like that")
        for fault in why:
            click.echo(f"warning: no study on this data can promote: {fault}")
        if held:
            few = "" if held.images >= FEW else (
                ": too few to show anything but a large gain (docs/promotion.md)"
            )  # fmt: skip
            count = "1 image" if held.images == 1 else f"{held.images} images"
            click.echo(f"test: {count} that no trial sees can judge a promotion{few}")
        click.echo(f"{path}: no faults in {', '.join(splits)}")


def _held_out(path: Path, home: Path) -> tuple[HeldOut | None, list[str]]:
    """The sound test split, or what is wrong with it and the mend."""
    from hpo.datasets.held_out import held_out

    try:
        with progress("files read") as told:
            return held_out(path, home=home, progress=told), []
    except DatasetError as error:
        return None, [*error.faults[:-1], f"{error.faults[-1]}. {error.hint}"]


def _share(name: str, text: str) -> Callable[[F], F]:
    """An option of `hpo data split` that is a part of the images."""
    kind = click.FloatRange(0, 1, min_open=True, max_open=True)
    return click.option(f"--{name}", type=kind, default=0.15, show_default=True, help=text)


@data.command("split")
@data_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.yaml",
    required=True,
    help="Data YAML to write; three lists of images come beside it.",
)
@_share("val", "About this part of the images validates.")
@_share("test", "About this part is kept back, where there is no test split yet.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Another one divides otherwise.",
)
@json_option
def split_command(
    name: str, output: Path, val: float, test: float, seed: int, as_json: bool
) -> None:
    """Divide a dataset so that no image is in two splits.

    The images of all splits are pooled, each content once, and divided by their content: a
    dataset that grew is divided as before. A test split that is there stays as it is. No image
    or label is moved or changed.
    """
    from hpo.datasets.data_yaml import load
    from hpo.datasets.split import divide
    from hpo.datasets.summary import summary
    from hpo.datasets.validation import require

    path, _ = _resolved(name)
    require(path, splits=tuple(load(path).splits))
    with progress("images read") as told:
        found = divide(path, output.absolute(), val=val, test=test, seed=seed, progress=told)
    tested = summary(found.yaml).splits["test"].by_class
    unseen = [cls for cls, boxes in tested.items() if not boxes]
    if not as_json:
        if found.copies:
            click.echo(f"left out: {found.copies} copies of other images")
        if found.kept:
            click.echo("test: the dataset's own")
        if unseen:
            click.echo(f"warning: test: no true box of {', '.join(unseen)}; nothing judges them")
    extra = {"copies": found.copies, "kept": found.kept, "unseen_classes": unseen}
    _made(found.yaml, there=not found.made, as_json=as_json, extra=extra)


@data.command("show")
@data_argument
@json_option
def show_command(name: str, as_json: bool) -> None:
    """Count a dataset's images and boxes, by split and class."""
    from hpo.datasets.summary import summary

    path, _ = _resolved(name)
    found = summary(path)
    show(as_json, asdict(found), lambda: _print_summary(found))


def _resolved(name: str) -> tuple[Path, Path]:
    """The data YAML meant and the project's `.hpo`."""
    from hpo.datasets.builtin import resolve

    home = Settings.read().home
    return resolve(name, home=home, base=Path.cwd()), home


def _made(
    path: Path, there: bool, as_json: bool, extra: Mapping[str, object] | None = None
) -> None:
    from hpo.datasets.data_yaml import load
    from hpo.datasets.validation import require

    path = path.resolve()
    require(path)  # one that was there already may have been altered
    images = {name: len(split.images) for name, split in load(path).splits.items()}
    if as_json:
        print_json({"data": path, "made": not there, "images": images, **(extra or {})})
        return
    here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    counts = ", ".join(f"{count} {name}" for name, count in images.items())
    state = "was made with these parameters before" if there else "made"
    click.echo(f"{here}: {state}; images: {counts}")
    click.echo(f"Next: hpo create-study --data {shlex.quote(str(here))}")


def _print_summary(found: DatasetSummary) -> None:
    width = max(len(name) for name in ("unlabelled", *found.names))
    click.echo(str(found.yaml))
    click.echo("  ".join([" " * width, *(f"{split:>7}" for split in found.splits)]))
    rows: list[tuple[str, list[int]]] = [
        ("images", [split.images for split in found.splits.values()]),
        ("unlabelled", [split.unlabelled for split in found.splits.values()]),
        ("boxes", [split.boxes for split in found.splits.values()]),
    ]
    rows += [(n, [split.by_class[n] for split in found.splits.values()]) for n in found.names]
    for label, figures in rows:
        click.echo("  ".join([f"{label:<{width}}", *(f"{figure:>7}" for figure in figures)]))
