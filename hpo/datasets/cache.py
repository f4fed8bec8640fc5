"""Keep datasets fetched from the artifact store on this machine, below a limit of space.

A dataset lies at FOLDER/FINGERPRINT, whole or absent: it is fetched and unpacked in
FOLDER/.FINGERPRINT.part and renamed. Two locks beside it are flock's, so a holder that died holds
nothing. FINGERPRINT.use is shared by those who read it, and who removes it must have it alone; its
time is that of the last use. FINGERPRINT.fetch is held by the one process that fetches.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hpo.datasets.archive import YAML_NAME, unpack
from hpo.datasets.fingerprint import fingerprint as fingerprint_of
from hpo.datasets.remote import keeping, require_room, size_text
from hpo.errors import DatasetError, WeightsError
from hpo.host.file_lock import file_lock, try_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hpo.datasets.remote import Pushed
    from hpo.settings import Settings
    from hpo.storage.artifacts.store import ArtifactStore

log = logging.getLogger(__name__)

GB = 1e9
POLL_S = 0.1
SAY_AFTER_S = 1.0  # nobody is told of a shorter wait
EVICTION_S = 600.0  # removing a large dataset takes its time
_HEX = 64  # characters of a fingerprint

_held: dict[Path, int] = {}  # lock -> descriptor; the process's end closes them
_holding = threading.Lock()


class DatasetCache:
    """The cache of one folder, which projects may share.

    Attributes:
        folder: where it is; made at the first fetch.
        limit: bytes above which the longest unused datasets are removed.
    """

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.dataset_cache
        self.limit = settings.dataset_cache_gb * GB
        self._home = settings.home

    def found(self, fingerprint: str) -> Path | None:
        """The data YAML of a dataset that is here whole; None where it is not, or was damaged.

        It stays until this process ends: nobody removes it meanwhile.

        Raises:
            UsageError: the cache cannot be written.
        """
        with keeping(self.folder):
            if not (self.folder / fingerprint).is_dir():
                return None
            self._hold(fingerprint)  # first: else it may be removed while it is looked at
            return self._whole(fingerprint)

    def fetched(self, wanted: Pushed, store: ArtifactStore, say: Callable[[str], None]) -> Path:
        """The data YAML of a dataset, fetched unless it is here; others meanwhile wait.

        It stays until this process ends.

        Args:
            wanted: what PostgreSQL says of it.
            store: the artifact store.
            say: told what takes long.

        Raises:
            WeightsError: the store does not hold it any more, or holds something else.
            StorageFullError: there is no room for it.
            StoreError: the store is gone.
            UsageError: the cache cannot be written.
        """
        name = f"{wanted.fingerprint[:12]}, {size_text(wanted.bytes)}"
        with keeping(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold(wanted.fingerprint)
            with self._fetching(wanted.fingerprint, lambda: say(f"waiting for the dataset {name}: "
                                "another process fetches it")):  # fmt: skip
                found = self._whole(wanted.fingerprint)
                if found is None:
                    say(f"fetching the dataset {name}, from {store.place}")
                    found = self._fetch(wanted, store)
                return found

    def entries(self) -> dict[str, int]:
        """Fingerprint -> bytes of each dataset that is here, the longest unused first.

        Raises:
            UsageError: the cache cannot be read.
        """
        with keeping(self.folder):
            if not self.folder.is_dir():
                return {}
            found = [e for e in self.folder.iterdir() if len(e.name) == _HEX and e.is_dir()]
            return {entry.name: _bytes(entry) for entry in sorted(found, key=self._used_at)}

    def _whole(self, fingerprint: str) -> Path | None:
        """The dataset's YAML where its content has the fingerprint; quick on a second look."""
        path = self.folder / fingerprint / YAML_NAME
        if not path.is_file():
            return None
        try:
            if fingerprint_of(path, home=self._home) == fingerprint:
                return path
        except DatasetError as error:
            log.warning("%s", error)
        log.warning("the dataset in %s was altered: it is fetched again", path.parent)
        return None

    def _fetch(self, wanted: Pushed, store: ArtifactStore) -> Path:
        place = self.folder / wanted.fingerprint
        part = self._part(wanted.fingerprint)
        shutil.rmtree(part, ignore_errors=True)  # of one that was killed: its lock is ours now
        self._make_room(wanted)
        part.mkdir()
        try:
            try:
                archive = store.fetch(wanted.sha256, part / "archive.tar")
                copy = unpack(archive, part / "copy")
            except OSError as error:
                require_room(self.folder, 2 * wanted.bytes, "for the dataset", error)
                raise
            _require_same(wanted, fingerprint_of(copy, home=part), store)
            archive.unlink()
            if place.is_dir():  # a damaged one, which somebody may still read
                place.rename(part / "damaged")
            (part / "copy").rename(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return place / YAML_NAME

    def _make_room(self, wanted: Pushed) -> None:
        """Remove the datasets unused for longest until the new one fits; never one in use."""
        with file_lock(self.folder / "lock", wait_s=EVICTION_S):
            self._clear_left()
            sizes = self.entries()
            for fingerprint in list(sizes):
                free = shutil.disk_usage(self.folder).free
                # Twice: the archive lies beside its files until they are checked
                fits = sum(sizes.values()) + wanted.bytes <= self.limit
                if fits and free >= 2 * wanted.bytes:
                    break
                if self._evict(fingerprint):
                    del sizes[fingerprint]
            require_room(self.folder, 2 * wanted.bytes, "for the dataset")

    def _evict(self, fingerprint: str) -> bool:
        """Remove a dataset unless somebody uses it; whether it was removed."""
        with _open(self._use(fingerprint)) as handle:
            if not try_lock(handle):
                return False
            gone = self.folder / f".{fingerprint}.gone"
            shutil.rmtree(gone, ignore_errors=True)
            (self.folder / fingerprint).rename(gone)
        log.info("removed the dataset %s from %s", fingerprint[:12], self.folder)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _clear_left(self) -> None:
        """Remove what processes that were killed have left."""
        for gone in self.folder.glob(".*.gone"):
            shutil.rmtree(gone, ignore_errors=True)
        for part in self.folder.glob(".*.part"):
            with _open(self.folder / f"{part.name[1:-5]}.fetch") as handle:
                if try_lock(handle):
                    shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def _fetching(self, fingerprint: str, told: Callable[[], None]) -> Iterator[None]:
        """Be the only process that fetches the dataset; `told` is called when that takes a wait."""
        with _open(self.folder / f"{fingerprint}.fetch") as handle:
            began, said = time.monotonic(), False
            while not try_lock(handle):
                if not said and time.monotonic() - began > SAY_AFTER_S:
                    said = True
                    told()
                time.sleep(POLL_S)
            yield

    def _hold(self, fingerprint: str) -> None:
        """Share the dataset's lock until this process ends."""
        path = self._use(fingerprint)
        with _holding:
            if path not in _held:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                fcntl.flock(handle, fcntl.LOCK_SH)  # at most for as long as a rename takes
                _held[path] = handle
            with suppress(OSError):  # another user's: then its time is not ours to tell
                os.utime(_held[path])

    def _use(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}.use"

    def _part(self, fingerprint: str) -> Path:
        return self.folder / f".{fingerprint}.part"

    def _used_at(self, entry: Path) -> float:
        lock = self._use(entry.name)
        return (lock if lock.exists() else entry).stat().st_mtime


@contextmanager
def _open(lock: Path) -> Iterator[int]:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _require_same(wanted: Pushed, found: str, store: ArtifactStore) -> None:
    if found != wanted.fingerprint:
        raise WeightsError(
            f"the archive {wanted.sha256[:12]} in {store.place} holds the dataset {found[:12]}, "
            f"PostgreSQL says that it is {wanted.fingerprint[:12]}",
            hint="It is not used. Push the dataset again from a machine that has it: "
            "`hpo data push --again DATA`.",
        )


def _bytes(folder: Path) -> int:
    """The size of all files below a folder; those that go meanwhile do not count."""
    total = 0
    for top, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(top, name)).st_size  # noqa: PTH118 - many
    return total
