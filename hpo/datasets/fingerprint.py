"""Fingerprint a dataset: one sha256 of its content, quick on a second look.

A copy elsewhere has the same fingerprint, however it spells the places of its splits. Another
class name, image, label, file name within a split, or split of an image gives another one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.datasets.data_yaml import Dataset, Split, label_path, load
from hpo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

SCHEME = 1  # in the hash and in the cache: raise it when what is hashed changes
READERS = 4  # threads; hashlib and read() release Python's lock
SETTLED_S = 2.0  # a file changed this lately may change again within its clock's tick


def fingerprint(
    yaml_path: Path, *, home: Path, progress: Callable[[int, int], None] | None = None
) -> str:
    """The sha256 of a dataset's content, in hexadecimal.

    Args:
        yaml_path: an Ultralytics data YAML.
        home: the project's `.hpo`; where it exists, the result is cached below it.
        progress: called with (files read, files in all) while files are read.

    Raises:
        DatasetError: the YAML is not usable, or train or val has no images.
    """
    dataset = load(yaml_path)
    faults = [f for n in ("train", "val") for f in dataset.splits[n].faults]
    if faults:
        raise DatasetError(str(yaml_path), faults)
    return remembered(Cache(home, dataset.yaml), dataset, lambda: _hash(dataset, progress))


def remembered(cache: Cache, dataset: Dataset, look: Callable[[], str]) -> str:
    """What `look` finds in the dataset's files, or found when they were the same as now."""
    looked_at = time.time()
    stamp, newest = _stamp(dataset)
    known = cache.get(stamp)
    if known:
        return known
    result = look()
    if newest < looked_at - SETTLED_S:
        cache.put(stamp, result)
    return result


def digest(file: Path) -> bytes:
    """The sha256 of a file's bytes; of an absent file, nothing."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except FileNotFoundError:
        return b""


def digests(files: Sequence[Path]) -> Iterator[bytes]:
    """The digest of each file in turn, several of them read at a time."""
    with ThreadPoolExecutor(READERS) as readers:
        yield from readers.map(digest, files)


class Cache:
    """The last fingerprint of one data YAML, valid while no file's stamp changes."""

    def __init__(self, home: Path, yaml_path: Path, kind: str = "fingerprints") -> None:
        key = hashlib.sha256(os.fsencode(yaml_path)).hexdigest()[:32]
        self.home = home
        self.file = home / "cache" / kind / f"{key}.json"

    def get(self, stamp: str) -> str | None:
        """The fingerprint stored with this stamp, or None."""
        try:
            stored: Any = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # a cache that cannot be read is no cache
        if not isinstance(stored, dict) or stored.get("stamp") != stamp:
            return None
        found = stored.get("fingerprint")
        return found if isinstance(found, str) else None

    def put(self, stamp: str, result: str) -> None:
        """Store a fingerprint; without a `home`, or with one that is read-only, do nothing."""
        if not self.home.is_dir():
            return
        written = self.file.with_suffix(f".{secrets.token_hex(4)}.part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(json.dumps({"stamp": stamp, "fingerprint": result}))
            written.replace(self.file)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        finally:
            with suppress(OSError):  # renamed, or never written
                written.unlink()


def top_of(split: Split) -> Path:
    """The deepest folder that holds all images of a split, which has some."""
    parents = [os.path.abspath(image.parent) for image in split.images]  # noqa: PTH100 - links stay
    return Path(os.path.commonpath(parents))


def combined(dataset: Dataset, found: Iterable[tuple[str, bytes]]) -> str:
    """The fingerprint of a dataset whose files, in `named_files`' order, have these digests."""
    hashed = hashlib.sha256(f"{SCHEME}\n{head(dataset)}\n".encode())
    for name, content in found:
        hashed.update(os.fsencode(f"{name}\0{content.hex()}\n"))
    return hashed.hexdigest()


def named_files(dataset: Dataset) -> Iterator[tuple[str, Path, bool]]:
    """(name, file, whether it must be there) of every image and label, in a fixed order.

    Names are made of the split and the file's place in it, so they move with the dataset.
    """
    for name, split in sorted(dataset.splits.items()):
        if not split.images:
            continue
        # From the deepest folder that holds the whole split: its place may differ, or its spelling
        top = top_of(split)
        named = [(Path(os.path.relpath(image, top)).as_posix(), image) for image in split.images]
        for inner, image in sorted(named):
            yield f"{name}\0image\0{inner}", image, True
            yield f"{name}\0label\0{inner}", label_path(image), False


def _stamp(dataset: Dataset) -> tuple[str, float]:
    """A hash of what the file system says of every file, and the newest change in seconds."""
    # The change time is there because the modification time can be set back: `cp -p`, rsync
    hashed = hashlib.sha256(f"{SCHEME}\n{head(dataset)}\n".encode())
    newest = 0.0
    for name, file, _ in named_files(dataset):
        try:
            stat = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            line = "absent"
        else:
            line = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
            newest = max(newest, stat.st_mtime, stat.st_ctime)
        hashed.update(os.fsencode(f"{name}\0{file}\0{line}\n"))
    return hashed.hexdigest(), newest


def _hash(dataset: Dataset, progress: Callable[[int, int], None] | None) -> str:
    files = list(named_files(dataset))
    read = digests([file for _, file, _ in files])

    def found() -> Iterator[tuple[str, bytes]]:
        for done, ((name, file, needed), content) in enumerate(zip(files, read, strict=True), 1):
            if needed and not content:
                raise DatasetError(str(dataset.yaml), [f"no such image: {file}"])
            yield name, content
            if progress:
                progress(done, len(files))

    return combined(dataset, found())


def head(dataset: Dataset) -> str:
    """What a fingerprint covers beside the files, as one text."""
    return json.dumps({"names": dataset.names, "channels": dataset.channels})
