"""Weights and pictures by content hash, in a folder; knows no trial.

A file lies at ROOT/objects/ab/abcdef…, named by its sha256. It is written beside its place, synced
and renamed, so it is whole or absent, and two writers of the same content do no harm.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from hpo.settings import Settings

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Stored:
    """What the store holds: hex sha256 and size in bytes."""

    sha256: str
    size: int


class FolderStore:
    """An artifact store in a folder that every worker of the study reaches."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def require_writable(self) -> None:
        """Try to write, so that nobody finds out after a training.

        Raises:
            UsageError: the folder cannot be made or written.
        """
        folder = self.root / "objects"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UsageError(
                f"artifacts cannot be written to {self.root}: {error.strerror}",
                hint="Set HPO_ARTIFACTS to a folder that can be written.",
            ) from error

    def put(self, file: Path) -> Stored:
        """Copy a file in; a file that is there already is left as it is.

        Raises:
            OSError: no space, or no right to write.
        """
        folder = self.root / "objects"
        folder.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(prefix=".incoming-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as target, file.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            place = self._place(digest.hexdigest())
            place.parent.mkdir(exist_ok=True)
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Stored(digest.hexdigest(), size)

    def fetch(self, sha256: str, target: Path) -> Path:
        """Copy the content out to `target` and check it.

        Raises:
            WeightsError: it is missing, or no longer what was stored.
        """
        place = self._place(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(place, target)
        except FileNotFoundError as error:
            raise WeightsError(
                f"the artifact {sha256[:12]} is not in {self.root}",
                hint="Set HPO_ARTIFACTS to the folder that the workers used.",
            ) from error
        found = sha256_of(target)
        if found != sha256:
            target.unlink()
            raise WeightsError(
                f"the artifact {sha256[:12]} in {self.root} was altered: its sha256 is now "
                f"{found[:12]}",
                hint=f"Restore {place} from a backup; it is not used as it is.",
            )
        return target

    def _place(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256


def sha256_of(file: Path) -> str:
    """Hex sha256 of a file's content."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def open_store(settings: Settings) -> FolderStore:
    """The store that HPO_ARTIFACTS names.

    Raises:
        UsageError: it is no folder.
    """
    if "://" in settings.artifacts:
        raise UsageError(
            f"HPO_ARTIFACTS={settings.artifacts} is not a folder",
            hint="This version keeps artifacts in a folder that all workers reach.",
        )
    return FolderStore(Path(settings.artifacts))
