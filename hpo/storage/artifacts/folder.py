"""An artifact store in a folder that all workers share.

A file of the area `objects` lies at ROOT/objects/ab/abcdef…, of another one at ROOT/AREA/abcdef….
It is written beside its place, synced and renamed, so it is whole or absent. Only
`require_writable` makes ROOT: where it has gone, a mount may have, and nothing is written below it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hpo.errors import StoreError, UsageError
from hpo.storage.artifacts.store import (
    CHUNK,
    DRAFT,
    DRAFTS_LAST_S,
    OBJECTS,
    Stored,
    missing,
    receive,
    refuse_objects,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a network file system says while its server is away; anything else is the folder itself
_AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)


class FolderStore:
    """An ArtifactStore in a folder that all workers reach.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def require_writable(self, *, make: bool = True) -> None:
        """Try to write; see ArtifactStore."""
        folder = self.root / OBJECTS
        if not make and not folder.is_dir():
            raise UsageError(
                f"there is no artifact store in {self.root}",
                hint="Set HPO_ARTIFACTS to the folder or bucket that `hpo create-study` used, the "
                "same for all workers; a shared folder may not be mounted here.",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix=DRAFT, dir=folder) as probe:
                probe.write(b"?")  # a full device still makes empty files
                probe.flush()
                # The file server's clock, which need not be this machine's
                now = Path(probe.name).stat().st_mtime
                _remove_drafts(folder, before=now - DRAFTS_LAST_S)
        except OSError as error:
            if error.errno in _FULL + _AWAY:
                raise _meaning(error, self.root) from error
            raise UsageError(
                f"artifacts cannot be written to {self.root}: {error.strerror}",
                hint="Set HPO_ARTIFACTS to a folder that can be written.",
            ) from error

    def put(self, file: Path, area: str = OBJECTS) -> Stored:
        """Copy a file in; see ArtifactStore."""
        digest, size = hashlib.sha256(), 0
        with file.open("rb") as source, self._draft(area) as draft:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                with self._reached():
                    draft.write(chunk)
            with self._reached():
                draft.flush()
                os.fsync(draft.fileno())
                place = self._place(digest.hexdigest(), area)
                self._make(place.parent)
                Path(draft.name).replace(place)
                _sync(place.parent)
        return Stored(digest.hexdigest(), size)

    def fetch(self, sha256: str, target: Path, area: str = OBJECTS) -> Path:
        """Copy the content out and check it; see ArtifactStore."""
        place = self._place(sha256, area)
        return receive(self._chunks(place), sha256, target, self, str(place))

    def size_of(self, sha256: str, area: str = OBJECTS) -> int | None:
        """A stored file's size; see ArtifactStore."""
        with self._reached():
            place = self._place(sha256, area)
            if place.is_file():
                return place.stat().st_size
            self._require_there()
            return None

    def keep_only(self, area: str, sha256s: Collection[str]) -> int:
        """Remove everything else from an area; see ArtifactStore."""
        refuse_objects(area)
        with self._reached():
            self._require_there()
            folder = self.root / area
            if not folder.is_dir():
                return 0
            files = [one for one in sorted(folder.iterdir()) if not one.is_dir()]
            gone = [file for file in files if file.name not in sha256s]
            for file in gone:
                file.unlink(missing_ok=True)
            if not sha256s:
                _remove_empty(folder)
            return len(gone)

    def _chunks(self, place: Path) -> Iterator[bytes]:
        with self._reached():
            try:
                source = place.open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                self._require_there()  # asked afterwards: a mount may go at any moment
                raise missing(place.name, self) from error
            with source:
                while chunk := source.read(CHUNK):
                    yield chunk

    @contextmanager
    def _draft(self, area: str) -> Iterator[BinaryIO]:
        """A new file in the area's folder; what its writer has not renamed is removed."""
        with self._reached():
            folder = self.root / area
            self._make(folder)
            # Not by tempfile: its files cannot be read by another user of the same folder
            draft = (folder / f"{DRAFT}{uuid.uuid4().hex}").open("xb")
        try:
            yield draft
        finally:
            # What was to be kept is synced and renamed; the rest nobody wants
            with suppress(OSError):
                draft.close()
            with suppress(OSError):
                Path(draft.name).unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        """Make a folder below the root, to stay after a power cut."""
        self._require_there()
        new = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for one in new:
            _sync(one.parent)

    def _require_there(self) -> None:
        if not (self.root / OBJECTS).is_dir():
            raise FileNotFoundError(errno.ENOENT, "it is not there", str(self.root))

    def _place(self, sha256: str, area: str) -> Path:
        folder = self.root / area
        return folder / sha256[:2] / sha256 if area == OBJECTS else folder / sha256

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what the system says of the folder into a StoreError."""
        try:
            yield
        except OSError as error:
            raise _meaning(error, self.root) from error


def _meaning(error: OSError, root: Path) -> StoreError:
    if error.errno in _FULL:
        return StoreError(
            f"no space left for artifacts in {root}",
            hint=f"Free some space (`df -h {root}` shows it), or set HPO_ARTIFACTS elsewhere.",
        )
    return StoreError(
        f"artifacts in {root} cannot be reached: {error.strerror or error}",
        hint="See that the folder is there, mounted and yours to write, or correct HPO_ARTIFACTS.",
    )


def _remove_drafts(folder: Path, *, before: float) -> None:
    """Remove what writers that were killed have left; `before` is a time of the folder's clock."""
    for draft in folder.glob(f"{DRAFT}*"):
        with suppress(OSError):  # another worker was quicker, or it is another user's
            if draft.stat().st_mtime < before:
                draft.unlink()


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise  # another writer put something there, or was quicker: both are fine


def _sync(folder: Path) -> None:
    """Make a rename in the folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)
