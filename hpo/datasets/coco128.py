"""COCO128 from where Ultralytics has it; knows not what is made of it."""

from __future__ import annotations

import shutil
import zipfile
from contextlib import contextmanager
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

from hpo.errors import DatasetError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 30  # without a byte
BLOCK_BYTES = 1 << 18
MOST_BYTES = 1 << 28  # unpacked; COCO128 is 7 MB
OTHER_WAY = "`--source DIR` takes a COCO128 that is on this machine already."


def address() -> str:
    """Where Ultralytics downloads COCO128 from, read from its own data YAML without importing it.

    Raises:
        ServiceError: Ultralytics is not installed, or names no address.
    """
    import yaml

    spec = find_spec("ultralytics")
    for place in (spec.submodule_search_locations or []) if spec else []:
        file = Path(place) / "cfg" / "datasets" / "coco128.yaml"
        if file.is_file():
            url = yaml.safe_load(file.read_text(encoding="utf-8")).get("download")
            if isinstance(url, str):
                return url
    raise ServiceError(
        "Ultralytics' coco128.yaml, which says where COCO128 is, was not found", hint=OTHER_WAY
    )


@contextmanager
def downloaded(url: str, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Path]:
    """COCO128's folder, downloaded and unpacked, until the block ends.

    Args:
        url: of the zip file.
        progress: called with (bytes here, bytes in all or 0 where unknown).

    Raises:
        ServiceError: it cannot be reached, or the transfer broke.
        DatasetError: what came is no zip file with COCO128 in it.
    """
    with TemporaryDirectory(prefix="hpo-coco128-") as name:
        folder = Path(name)
        packed = folder / "coco128.zip"
        _fetch(url, packed, progress)
        _unpack(url, packed, folder / "unpacked")
        found = sorted((folder / "unpacked").glob("**/images/train2017"))
        if not found:
            raise DatasetError(url, ["no folder images/train2017 in the zip file"], hint=OTHER_WAY)
        yield found[0].parents[1]


def _fetch(url: str, target: Path, progress: Callable[[int, int], None] | None) -> None:
    if not url.startswith(("https://", "http://")):
        raise ServiceError(f"{url}: expected an http address", hint=OTHER_WAY)
    try:
        answer = urlopen(url, timeout=TIMEOUT_S)  # noqa: S310 - the scheme is checked above
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error) from None
    with answer, target.open("wb") as stream:
        total, here = int(answer.headers.get("Content-Length") or 0), 0
        while block := _read(url, answer.read):
            stream.write(block)
            here += len(block)
            if progress:
                progress(here, total)
    if total and here != total:
        raise ServiceError(f"{url}: {here} bytes came, expected {total}", hint=OTHER_WAY)


def _read(url: str, read: Callable[[int], bytes]) -> bytes:
    # Apart from the writing, whose OSError is the disk's and not the network's
    try:
        return read(BLOCK_BYTES)
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error) from None


def _unreachable(url: str, error: Exception) -> ServiceError:
    reason: object = getattr(error, "reason", error)
    if isinstance(error, HTTPError):  # an answer with a connection of its own
        reason = error
        error.close()
    return ServiceError(f"COCO128 cannot be downloaded from {url}: {reason}", hint=OTHER_WAY)


def _unpack(url: str, packed: Path, folder: Path) -> None:
    root = folder.resolve()
    try:
        with zipfile.ZipFile(packed) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if sum(member.file_size for member in members) > MOST_BYTES:
                raise DatasetError(url, [f"more than {MOST_BYTES} bytes unpacked"], hint=OTHER_WAY)
            for member in members:
                target = (root / member.filename).resolve()
                if not target.is_relative_to(root):
                    fault = f"a member that leaves its folder: {member.filename}"
                    raise DatasetError(url, [fault], hint=OTHER_WAY)
                target.parent.mkdir(parents=True, exist_ok=True)
                # Contents only: a link in the archive becomes a small text file
                with archive.open(member) as source, target.open("wb") as stream:
                    shutil.copyfileobj(source, stream)
    except zipfile.BadZipFile as error:
        raise DatasetError(url, [f"not a sound zip file: {error}"], hint=OTHER_WAY) from None
