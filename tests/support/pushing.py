"""Datasets that were pushed to a store, and machines that lack them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.generated import make_shapes
from hpo.datasets.remote import Pushed, push
from hpo.settings import Settings
from hpo.storage.artifacts.opening import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine
    from support.s3_server import S3Server

# Fetches a dataset as a worker does, and holds it until its standard input ends
_FETCHER = """
import sys
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres.engine import connect
from hpo.datasets.cache import DatasetCache
from hpo.datasets.remote import pushed
from hpo.settings import Settings

settings = Settings.read()
engine = connect(settings)
say = lambda text: print(text, flush=True)
found = DatasetCache(settings).fetched(pushed(engine, sys.argv[1]), open_store(settings), say)
print("has", found, flush=True)
engine.dispose()
sys.stdin.read()
"""


@pytest.fixture(params=["folder", "s3"])
def pusher(
    request: pytest.FixtureRequest, settings: Settings, clean_env: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Settings:  # fmt: skip
    """This process works in a project with a store of each kind."""
    clean_env.chdir(tmp_path)
    clean_env.setenv("HPO_STORAGE", str(settings.storage))
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        clean_env.setenv("HPO_ARTIFACTS", f"s3://{server.bucket}/lab")
    return Settings.read()


def shapes(folder: Path, **drawn: int) -> Path:
    """A small drawn set."""
    return make_shapes(folder, **{"imgsz": 32, "train": 3, "val": 2, "test": 2, **drawn})


def pushed_set(settings: Settings, engine: Engine, data: Path) -> Pushed:
    """Push it from this project."""
    store = open_store(settings)
    store.require_writable()
    settings.home.mkdir(exist_ok=True)
    content = fingerprint(data, home=settings.home)
    found, _ = push(engine, store, data, content, scratch=settings.dataset_cache, by="a@b")
    return found


def elsewhere(settings: Settings, folder: Path, **changes: object) -> Settings:
    """Another machine's settings: a home and a cache of its own, the same services."""
    home = folder / ".hpo"
    home.mkdir(parents=True)
    one = replace(settings, home=home, dataset_cache=home / "cache/datasets")
    return replace(one, **changes)  # type: ignore[arg-type]


def variables(settings: Settings) -> dict[str, str]:
    """By which another process reads these settings."""
    return os.environ | {
        "HPO_STORAGE": str(settings.storage),
        "HPO_HOME": str(settings.home),
        "HPO_ARTIFACTS": settings.artifacts,
        "HPO_DATASET_CACHE": str(settings.dataset_cache),
        "HPO_DATASET_CACHE_GB": str(settings.dataset_cache_gb),
    }


def fetcher(settings: Settings, content: str, before: str = "") -> subprocess.Popen[str]:
    """A process that fetches a dataset and holds it; `before` is code that it runs first."""
    return subprocess.Popen(
        [sys.executable, "-c", before + _FETCHER, content], env=variables(settings),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def fetched_and_ended(settings: Settings, content: str, before: str = "") -> str:
    """What such a process said, which holds nothing any more."""
    said, _ = fetcher(settings, content, before).communicate("", timeout=120)
    return said
