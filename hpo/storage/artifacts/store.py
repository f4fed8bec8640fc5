"""The ArtifactStore protocol: files kept by the sha256 of their content.

A file is named by the sha256 of its content and lies in an area. The area OBJECTS is shared by all
studies, and nothing in it is ever removed; every other area has one owner, who removes what it no
longer needs.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hpo.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

OBJECTS = "objects"
DRAFT = ".incoming-"  # how the names of unfinished files begin
CHUNK = 1 << 20  # bytes read at a time
DRAFTS_LAST_S = 86400.0  # an unfinished write to OBJECTS is given up after a day


@dataclass(frozen=True)
class Stored:
    """What the store holds: hex sha256 and size in bytes."""

    sha256: str
    size: int


class ArtifactStore(Protocol):
    """A store that every worker of a study reaches. Thread-safe.

    A file in it is whole or absent, whatever was killed meanwhile, and two writers of the same
    content do no harm.

    Attributes:
        place: where it is, for messages; without any password.
    """

    @property
    def place(self) -> str: ...

    def require_writable(self, *, make: bool = True) -> None:
        """Try to write, before there is work to lose.

        Unfinished writes of writers that are long gone are removed on the way.

        Args:
            make: whether to make a folder that is missing. Workers do not: it may be a mount that
                is not there, and each would fill a store of its own.

        Raises:
            UsageError: it is missing, or cannot be made or written as it is named.
            StoreError: it cannot be reached, or is full.
        """
        ...

    def put(self, file: Path, area: str = OBJECTS) -> Stored:
        """Copy a file in; content that is there already is written anew, altered or not.

        Raises:
            StoreError: the store is gone, full or refuses; nothing of the file is there.
            OSError: `file` cannot be read.
        """
        ...

    def fetch(self, sha256: str, target: Path, area: str = OBJECTS) -> Path:
        """Copy the content out to `target`, whose folder is made, and check it.

        Raises:
            WeightsError: it is missing, or no longer what was stored; `target` is not written.
            StoreError: the store is gone, so nobody knows; `target` is not written.
            OSError: `target` cannot be written; nothing of it is left.
        """
        ...

    def size_of(self, sha256: str, area: str = OBJECTS) -> int | None:
        """How many bytes are held under that name, unread; None where it is not there.

        Raises:
            StoreError: the store is gone, so nobody knows.
        """
        ...

    def keep_only(self, area: str, sha256s: Collection[str]) -> int:
        """Remove everything else from an area, unfinished writes too; how many files went.

        Raises:
            StoreError: the store is gone.
            ValueError: the area is OBJECTS.
        """
        ...


def sha256_of(file: Path) -> str:
    """Hex sha256 of a file's content."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def missing(sha256: str, store: ArtifactStore) -> WeightsError:
    """The error for content that a store does not hold."""
    return WeightsError(
        f"the artifact {sha256[:12]} is not in {store.place}",
        hint="Set HPO_ARTIFACTS to the place that the workers used.",
    )


def receive(
    chunks: Iterable[bytes], sha256: str, target: Path, store: ArtifactStore, place: str
) -> Path:
    """Write a store's content to `target`, whose folder is made, if it is what was stored.

    Args:
        chunks: the content; what they raise is passed on.
        sha256: of what was stored.
        target: where to; written beside and renamed, so never in part.
        store: whose content it is, for the message.
        place: where it lies in there, for the message.

    Raises:
        WeightsError: it is another content.
        OSError: `target` cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{DRAFT}{uuid.uuid4().hex}")
    digest = hashlib.sha256()
    try:
        with draft.open("xb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        found = digest.hexdigest()
        if found != sha256:
            raise WeightsError(
                f"the artifact {sha256[:12]} in {store.place} was altered: its sha256 is now "
                f"{found[:12]}",
                hint=f"Restore {place} from a backup; it is not used as it is.",
            )
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def refuse_objects(area: str) -> None:
    """Refuse to remove anything from OBJECTS.

    Raises:
        ValueError: the area is OBJECTS.
    """
    if area == OBJECTS:
        raise ValueError(f"nothing is ever removed from {OBJECTS}")
