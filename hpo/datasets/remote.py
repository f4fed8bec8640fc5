"""Push datasets to the artifact store, and find them there by their fingerprint.

The archive lies among the store's objects by its sha256, and PostgreSQL says which archive a
fingerprint means: a store that somebody else can write to gives nobody another dataset.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from hpo.datasets.archive import own_keys, pack, packed_bytes
from hpo.datasets.data_yaml import load
from hpo.errors import DatasetError, StorageFullError, UsageError
from hpo.host.file_lock import try_lock
from hpo.storage.postgres.queries import Queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from sqlalchemy import Connection, Engine, RowMapping

    from hpo.storage.artifacts.store import ArtifactStore

SQL = Queries(__name__)

KB, MB, GB = 1e3, 1e6, 1e9
_DRAFT = ".packing-"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a folder says that is none, is another's, or lies where nobody can write
_NO_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST,
    errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENODEV, errno.ENOLCK,
    errno.EOPNOTSUPP,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A dataset in the store.

    Attributes:
        fingerprint: of its content.
        sha256: of its archive.
        bytes: of its archive.
        images: how many, by split.
        keys: what its data YAML says beside places and class names.
        pushed_at: when, by the database's clock.
        pushed_by: `user@host`.
        studies: names of studies created on it; only where all are listed.
    """

    fingerprint: str
    sha256: str
    bytes: int
    images: Mapping[str, int]
    keys: Mapping[str, Any]
    pushed_at: datetime
    pushed_by: str
    studies: tuple[str, ...] = ()


def pushed(engine: Engine, fingerprint: str) -> Pushed | None:
    """What is known of the dataset with that content; None where nobody pushed it."""
    with engine.connect() as connection:
        row = recorded(connection, fingerprint)
    return None if row is None else Pushed(**row)


def recorded(connection: Connection, fingerprint: str | None) -> RowMapping | None:
    """The row of a pushed dataset, by column; None where nobody pushed it."""
    found = connection.execute(SQL["dataset"], {"fingerprint": fingerprint})
    return found.mappings().one_or_none()


def record_as_told(connection: Connection, row: str) -> None:
    """Record what another database knew of a dataset; what is known here already stays.

    Args:
        connection: an open transaction.
        row: as `recorded` gives it, as JSON.
    """
    connection.execute(SQL["import_dataset"], {"row": row})


def all_pushed(engine: Engine) -> list[Pushed]:
    """All datasets that were pushed, the newest first."""
    with engine.connect() as connection:
        rows = connection.execute(SQL["datasets"]).mappings().all()
    return [Pushed(**{**row, "studies": tuple(row["studies"])}) for row in rows]


def push(
    engine: Engine,
    store: ArtifactStore,
    data: Path,
    fingerprint: str,
    *,
    scratch: Path,
    by: str,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Pushed, bool]:
    """Put a dataset into the store and record it, unless it is there.

    Whether what is there was altered is not looked at: that would take reading all of it.

    Args:
        engine: the database.
        store: the artifact store, found writable.
        data: the data YAML.
        fingerprint: of its content, as just computed.
        scratch: a folder with room for its archive; it is made.
        by: who pushes it, `user@host`.
        again: put it there anew in any case; what is recorded is replaced.
        progress: called with (files packed, files in all).

    Returns:
        What is recorded, and whether it was pushed now.

    Raises:
        UsageError: the same files were pushed with other keys in their data YAML.
        DatasetError: it cannot be packed, or changed meanwhile.
        UsageError: `scratch` cannot be written.
        StorageFullError: `scratch` has no room.
        StoreError: the store is gone or full.
    """
    dataset = load(data)
    keys = own_keys(dataset)
    known = pushed(engine, fingerprint)
    if known is not None:
        _require_same_keys(data, known, keys)
        if not again and store.size_of(known.sha256) == known.bytes:
            return known, False
    with _draft(scratch, packed_bytes(dataset)) as archive:
        _pack_exactly(data, archive, fingerprint, progress)
        stored = store.put(scratch / archive.name)
    images = {name: len(split.images) for name, split in dataset.splits.items() if split.images}
    row = {
        "fingerprint": fingerprint, "sha256": stored.sha256, "bytes": stored.size,
        "images": json.dumps(images), "keys": json.dumps(keys), "pushed_by": by,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(SQL["record_dataset"], row)
    found = pushed(engine, fingerprint)
    if found is None:
        raise DatasetError(str(data), ["its record was removed as soon as it was made"])
    return found, True


def _pack_exactly(
    data: Path, archive: BinaryIO, wanted: str, progress: Callable[[int, int], None] | None
) -> None:
    if pack(data, archive, progress=progress) != wanted:
        raise DatasetError(
            str(data), ["its files changed while they were packed"],
            hint="Push it when nobody writes to it: `hpo data push DATA`.",
        )  # fmt: skip
    archive.flush()


def _require_same_keys(data: Path, known: Pushed, keys: Mapping[str, Any]) -> None:
    """Refuse a dataset pushed with other keys that say how its labels are read."""
    keys = json.loads(json.dumps(keys))
    differ = sorted(k for k in {*keys, *known.keys} if keys.get(k) != known.keys.get(k))
    if differ:
        said = "; ".join(f"{k}: {known.keys.get(k)} there, {keys.get(k)} here" for k in differ)
        raise UsageError(
            f"the same images and labels were pushed by {known.pushed_by} with another data YAML "
            f"than {data}: {said}",
            hint="Give both the same keys; a class name that differs makes another dataset.",
        )


@contextmanager
def _draft(folder: Path, needed: int) -> Iterator[BinaryIO]:
    """A new file that is gone afterwards; what others that were killed have left goes, too.

    Raises:
        StorageFullError: the folder has no room for it.
        UsageError: the folder cannot be written.
    """
    path = folder / f"{_DRAFT}{uuid.uuid4().hex}"
    with keeping(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_DRAFT}*"):
            _remove_if_left(left)
        require_room(folder, needed, "to pack the dataset")
        draft = path.open("xb")
    with draft as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # says that its writer lives
        try:
            yield file
        except OSError as error:
            require_room(folder, needed, "to pack the dataset", error)
            raise
        finally:
            path.unlink(missing_ok=True)


def require_room(folder: Path, needed: int, what: str, cause: OSError | None = None) -> None:
    """Refuse a folder whose device lacks room; with a `cause`, where that is what it says.

    Raises:
        StorageFullError: there are fewer free bytes than `needed`.
    """
    free = shutil.disk_usage(folder).free
    full = free < needed if cause is None else cause.errno in _FULL
    if full:
        raise StorageFullError(
            f"no space left in {folder} {what}: {size_text(needed)} wanted, {size_text(free)} free",
            hint=f"Free some space (`df -h {folder}` shows it), or set HPO_DATASET_CACHE to a "
            "folder with room.",
        ) from cause


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """What the system says of the cache's folder, in our words.

    Raises:
        UsageError: datasets cannot be kept in it.
        StorageFullError: its device is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(
                f"no space left for datasets in {folder}",
                hint=f"Free some space (`df -h {folder}` shows it), or set HPO_DATASET_CACHE to a "
                "folder with room.",
            ) from error
        if error.errno not in _NO_PLACE:
            raise
        raise UsageError(
            f"datasets cannot be kept in {folder}: {error.strerror}",
            hint="Set HPO_DATASET_CACHE to a folder that can be written.",
        ) from error


def size_text(size: float) -> str:
    """`1.25 GB`, `3.2 MB` or `14.0 kB`."""
    if size >= GB:
        return f"{size / GB:.2f} GB"
    return f"{size / MB:.1f} MB" if size >= MB else f"{size / KB:.1f} kB"


def _remove_if_left(draft: Path) -> None:
    """Remove a file whose writer is gone."""
    with suppress(OSError):  # its writer was quicker, or it is another user's
        handle = os.open(draft, os.O_RDWR)
        try:
            if try_lock(handle):
                draft.unlink()
        finally:
            os.close(handle)
