"""`hpo doctor`: look at everything a study needs on this machine, and say how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.terminal.errors import meaning
from hpo.cli.terminal.options import json_option, print_json
from hpo.errors import HpoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.settings import Settings

FREE_GB = 2.0  # below this a night of trials may fill the device


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, whether it is well, what was seen, and what mends it."""

    check: str
    ok: bool
    seen: str
    mend: str = ""


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check what a study needs on this machine, and say how to mend what is not well.

    Exits 1 when something is not well. It starts nothing but a private PostgreSQL that is there.
    """
    from hpo.settings import Settings

    settings = Settings.read()
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("python", _python),
        ("packages", _packages),
        ("device", _device),
        ("database", _database),
        ("mlflow", _mlflow),
        ("artifacts", _artifacts),
        ("datasets", _datasets),
        ("space", _space),
    ]
    findings = [_look(name, check, settings) for name, check in checks]
    if as_json:
        print_json([asdict(item) for item in findings])
    else:
        for item in findings:
            click.echo(f"{'ok  ' if item.ok else 'BAD '} {item.check:<10} {item.seen}")
            if item.mend:
                click.echo(f"                {item.mend}")
    return 0 if all(item.ok for item in findings) else 1


def _look(name: str, check: Callable[[Settings], str], settings: Settings) -> Finding:
    try:
        return Finding(name, ok=True, seen=check(settings))
    except HpoError as error:
        return Finding(name, ok=False, seen=str(error), mend=error.hint)
    except OSError as error:
        return Finding(name, ok=False, seen=str(error), mend="Check the folder and its rights.")
    except Exception as error:  # noqa: BLE001 - what one of them meets must not hide the others
        told = meaning(error)
        return Finding(name, ok=False, seen=str(told), mend=told.hint)


def _python(settings: Settings) -> str:
    del settings
    return f"{sys.version.split()[0]} at {sys.executable}"


def _packages(settings: Settings) -> str:
    from importlib.metadata import version

    del settings
    names = ("optuna", "ray", "mlflow", "ultralytics", "torch", "sqlalchemy")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _device(settings: Settings) -> str:
    from workers.device import choose_device, visible_gpus

    del settings
    return f"{choose_device()} ({visible_gpus()} GPUs, {os.cpu_count()} cores)"


def _database(settings: Settings) -> str:
    from hpo.storage.postgres import schema
    from hpo.storage.postgres.engine import connect
    from hpo.storage.postgres.privileges import require_writing
    from hpo.studies.store import list_studies

    engine = connect(settings)
    try:
        schema.check(engine)
        count = sum(study.parent_id is None for study in list_studies(engine))
        require_writing(engine)
        return f"PostgreSQL answers at {engine.url.render_as_string()}; {count} studies"
    finally:
        engine.dispose()


def _mlflow(settings: Settings) -> str:
    from hpo.storage.postgres.engine import storage_url
    from hpo.tracking.client import open_client

    return f"MLflow answers at {open_client(settings, storage_url(settings)).place}"


def _artifacts(settings: Settings) -> str:
    from hpo.storage.artifacts.folder import FolderStore
    from hpo.storage.artifacts.opening import open_store

    store = open_store(settings)
    if isinstance(store, FolderStore) and not store.root.is_dir():  # looked at, not made
        existing = next(folder for folder in store.root.parents if folder.is_dir())
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    else:
        store.require_writable()
    return f"{store.place} can be written"


def _datasets(settings: Settings) -> str:
    from hpo.datasets.cache import GB, DatasetCache

    here = DatasetCache(settings).entries()
    size, limit = sum(here.values()) / GB, settings.dataset_cache_gb
    return f"{len(here)} fetched, {size:.1f} of {limit:g} GB, in {settings.dataset_cache}"


def _space(settings: Settings) -> str:
    existing = next(f for f in (settings.home, *settings.home.parents) if f.is_dir())
    free = shutil.disk_usage(Path(existing)).free / 1e9
    if free < FREE_GB:
        raise HpoError(
            f"{free:.1f} GB free at {existing}, {FREE_GB:g} GB wanted",
            hint="Free some space, or set HPO_HOME and HPO_ARTIFACTS elsewhere.",
        )
    return f"{free:.0f} GB free at {existing}"
