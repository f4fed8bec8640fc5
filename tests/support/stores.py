"""Artifact stores of both kinds, and datasets pushed into them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import pytest

from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.generated import make_shapes
from hpo.datasets.remote import Pushed, push
from hpo.settings import Settings
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.artifacts.opening import open_store
from hpo.storage.artifacts.s3 import S3Store

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine
    from support.s3_server import S3Server

    from hpo.storage.artifacts.store import ArtifactStore

PREFIX = "lab/one"

# Writers that are killed when everything is written and nothing is shown yet, or half of it
_FOLDER_WRITER = """
import os, signal, sys
from pathlib import Path
from hpo.storage.artifacts.folder import FolderStore

os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
FolderStore(Path(sys.argv[1])).put(Path(sys.argv[2]), sys.argv[3])
"""
_S3_WRITER = """
import os, signal, sys
from pathlib import Path
from hpo.storage.artifacts.s3 import S3Store

def die_at_the_second_part(request, **_):
    if b"partNumber=2" in request.url.encode():
        os.kill(os.getpid(), signal.SIGKILL)

bucket, _, prefix = sys.argv[1].removeprefix("s3://").partition("/")
store = S3Store(bucket, prefix)
store._client().meta.events.register("before-send.s3.UploadPart", die_at_the_second_part)
store.put(Path(sys.argv[2]), sys.argv[3])
"""


class Backing(Protocol):
    """A store and what is behind it."""

    store: ArtifactStore

    def another(self) -> ArtifactStore:
        """The same store as another process opens it."""
        ...

    def alter(self, sha256: str, area: str) -> None:
        """Write another content of the same size in a stored file's place."""
        ...

    def names(self) -> list[str]:
        """Where all its files lie, unfinished ones in a folder too."""
        ...

    def unfinished(self) -> list[str]:
        """What writers began and did not end, in all areas."""
        ...

    def kill_writer(self, file: Path, area: str) -> int:
        """Exit status of a process that was killed in the middle of storing the file."""
        ...

    def take_away(self) -> None:
        """Make the store unreachable."""
        ...

    def bring_back(self) -> None:
        """Make it reachable again."""
        ...


class FolderBacking:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self._away = folder / "store", folder / "away"
        self.store: ArtifactStore = self.another()

    def another(self) -> ArtifactStore:
        return FolderStore(self.root)

    def alter(self, sha256: str, area: str) -> None:
        file = next(self.root.glob(f"{area}/**/{sha256}"))
        file.write_bytes(b"x" * file.stat().st_size)

    def names(self) -> list[str]:
        return sorted(str(file) for file in self.root.rglob("*") if file.is_file())

    def unfinished(self) -> list[str]:
        return sorted(str(file) for file in self.root.rglob(".incoming-*"))

    def kill_writer(self, file: Path, area: str) -> int:
        return _run(_FOLDER_WRITER, str(self.root), str(file), area)

    def take_away(self) -> None:
        self.root.rename(self._away)

    def bring_back(self) -> None:
        self._away.rename(self.root)


class S3Backing:
    """A bucket of an S3 server in memory; what it held is gone after it was away."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.store: ArtifactStore = self.another()

    def another(self) -> ArtifactStore:
        return S3Store(self.server.bucket, PREFIX)

    def alter(self, sha256: str, area: str) -> None:
        client = self.server.client()
        listed = client.list_objects_v2(Bucket=self.server.bucket, Prefix=f"{PREFIX}/{area}/")[
            "Contents"
        ]
        found = next(one for one in listed if one["Key"].endswith(f"/{sha256}"))
        client.put_object(Bucket=self.server.bucket, Key=found["Key"], Body=b"x" * found["Size"])

    def names(self) -> list[str]:
        listed = self.server.client().list_objects_v2(Bucket=self.server.bucket)
        return sorted(one["Key"] for one in listed.get("Contents", ()))

    def unfinished(self) -> list[str]:
        listed = (
            self.server.client()
            .list_multipart_uploads(Bucket=self.server.bucket)
            .get("Uploads", ())
        )
        return sorted(one["Key"] for one in listed)

    def kill_writer(self, file: Path, area: str) -> int:
        return _run(_S3_WRITER, self.store.place, str(file), area)

    def take_away(self) -> None:
        self.server.stop()

    def bring_back(self) -> None:
        self.server.start()


def _run(program: str, *arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", program, *arguments], timeout=120, check=False)
    return done.returncode


@pytest.fixture(params=["folder", "s3"])
def backing(request: pytest.FixtureRequest, tmp_path: Path) -> Backing:
    """A store of each kind that was made and is empty."""
    one: Backing
    if request.param == "folder":
        one = FolderBacking(tmp_path)
    else:
        one = S3Backing(request.getfixturevalue("s3_server"))
    one.store.require_writable()
    return one


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
