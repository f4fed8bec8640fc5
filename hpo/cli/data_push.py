"""`hpo data push` and `hpo data list`: datasets in the artifact store, for other machines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.common import json_option, print_view, progress, show
from hpo.errors import MismatchError, UsageError
from hpo.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.datasets.remote import Pushed
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
    from hpo.cli.project import plainly
    from hpo.storage.artifacts.opening import open_store
    from hpo.storage.postgres import schema
    from hpo.storage.postgres.engine import connect
    from hpo.studies.store import load_study

    settings = Settings.read()
    if name is None and study_name is None:
        raise UsageError("which dataset?", hint="`hpo data push DATA`, or `--study NAME`.")
    settings.home.mkdir(parents=True, exist_ok=True)
    engine = connect(settings, create=True)
    try:
        with plainly(engine):
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
    from hpo.cli.project import opened
    from hpo.datasets.cache import DatasetCache
    from hpo.datasets.remote import all_pushed

    with opened() as (settings, engine):
        found = all_pushed(engine)
        here = DatasetCache(settings).entries()
    document = [_document(one) | {"cached": one.fingerprint in here} for one in found]
    show(as_json, document, lambda: _table(found, here))


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


def _table(found: list[Pushed], here: dict[str, int]) -> None:
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
