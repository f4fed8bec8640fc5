"""Write a study's document to one versioned file, plain or gzip, and read it back.

The text has one row a line and every key sorted, so equal studies have equal files and two files
can be compared line by line.
"""

from __future__ import annotations

import gzip
import json
import os
import uuid
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from hpo.errors import FaultsError, SchemaError, UsageError
from hpo.studies.backup.document import Row, StudyDocument, compact, faults

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "hpo-study"
VERSION = 3  # 1 knew no finals, test splits and overrides; 2 no file that trainings start from
GZIP_SUFFIX = ".gz"
_GZIP_MAGIC = b"\x1f\x8b"


def to_bytes(document: StudyDocument, *, compressed: bool = False) -> bytes:
    """The file's content; the same for the same document."""
    parts = {
        "content": _content(document.content),
        "format": compact(FORMAT),
        "made": compact(document.made),
        "sha256": compact(document.sha256()),
        "version": compact(VERSION),
    }
    data = ("{\n" + _members(parts) + "\n}\n").encode()
    # A time in the header would make equal files differ.
    return gzip.compress(data, mtime=0) if compressed else data


def _content(content: dict[str, Any]) -> str:
    texts = {
        name: _lines(part) if isinstance(part, list)
        else _content(part) if name == "finals" and part is not None
        else compact(part)
        for name, part in content.items()
    }  # fmt: skip
    return "{\n" + _members(texts) + "\n}"


def _members(texts: dict[str, str]) -> str:
    return ",\n".join(f"{compact(name)}: {text}" for name, text in sorted(texts.items()))


def _lines(rows: list[Any]) -> str:
    return "[\n" + ",\n".join(compact(row) for row in rows) + "\n]" if rows else "[]"


def from_bytes(data: bytes, name: str) -> StudyDocument:
    """The document in a file called `name`, checked as a whole.

    Raises:
        UsageError: it is no export of a study, or was cut or altered.
        SchemaError: a newer version of this package wrote it.
        FaultsError: its parts do not fit together.
    """
    document = _parsed(data, name)
    version = document.get("version")
    if not isinstance(version, int) or version < 1:
        raise _no_export(name, f"its version is {version!r}")
    if version > VERSION:
        raise SchemaError(
            f"{name} has version {version} of its format, this package knows {VERSION}",
            hint="Install the newer hpo-service here: `pip install --upgrade hpo-service`.",
        )
    made = document.get("made")  # nobody checks it: what it says is tried, not trusted
    read = StudyDocument(document.get("content"), made if isinstance(made, dict) else {})
    found, said = read.sha256(), str(document.get("sha256"))
    if found != said:
        raise UsageError(
            f"{name} was altered: the sha256 of its content is {found[:12]}, it says {said[:12]}",
            hint="Take an unaltered copy, or export the study again.",
        )
    if version < VERSION:
        read = replace(read, content=_of_today(read.content, version))
    if wrong := faults(read.content):
        raise FaultsError(name, wrong, hint="Export the study again: `hpo export FILE`.")
    return read


# What version 1 lacks: by section, and of each of its rows
_SINCE_1: dict[str, Row] = {
    "workers": {"environment": None},
    "promotions": {"override": False, "why": None, "actor": None},
}


def _of_today(content: Any, version: int) -> Any:
    """The content of an older version's file, which may be anything yet, as of today's version."""
    if not isinstance(content, dict):
        return content
    return _since_2(_since_1(content) if version == 1 else content)


def _since_1(content: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {"finals": None, "final": []}
    if isinstance(content.get("study"), dict):
        changed["study"] = {"test_fingerprint": None} | content["study"]
    for name, lacking in _SINCE_1.items():
        if isinstance(rows := content.get(name), list):
            changed[name] = [
                lacking | row | ({"place": place} if name == "promotions" else {})
                if isinstance(row, dict) else row
                for place, row in enumerate(rows, 1)
            ]  # fmt: skip
    return content | changed


def _since_2(content: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    if isinstance(content.get("study"), dict):
        changed["study"] = {"model_sha256": None} | content["study"]
    if isinstance(content.get("finals"), dict):
        changed["finals"] = _since_2(content["finals"])
    return content | changed


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    if data.startswith(_GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise UsageError(
                f"{name} was cut or damaged: {error}",
                hint="Take a whole copy, or export the study again.",
            ) from error
    if not data.lstrip().startswith(b"{"):
        raise _no_export(name, "it is no JSON")
    try:
        document = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _no_export(name, f"it is no JSON, or was cut: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _no_export(name, f"it does not say that its format is '{FORMAT}'")
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _no_export(name: str, why: str) -> UsageError:
    return UsageError(
        f"{name} is no export of a study: {why}", hint="`hpo export FILE` writes one."
    )


def require_writable(path: Path, *, force: bool) -> None:
    """Refuse a place that a file cannot go to, before there is work to lose.

    Raises:
        UsageError: it exists and `force` is not given, is no file, or has no folder.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file", hint="Name a file that is to be written.")
    if path.exists() and not force:
        raise UsageError(
            f"{path} exists", hint="Name another file, or replace this one with --force."
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint=f"`mkdir -p {path.parent}`")


def write(document: StudyDocument, path: Path, *, force: bool = False) -> int:
    """Write the file whole or not at all; gzip where the name ends in `.gz`.

    Returns:
        Its size in bytes.

    Raises:
        UsageError: see `require_writable`.
        OSError: it cannot be written.
    """
    data = to_bytes(document, compressed=path.suffix == GZIP_SUFFIX)
    path = path.resolve()  # a link stays, what it leads to is replaced
    require_writable(path, force=force)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        require_writable(path, force=force)  # somebody may have put one there meanwhile
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return len(data)


def read(path: Path) -> StudyDocument:
    """The document in a file.

    Raises:
        UsageError: there is no such file; and see `from_bytes`.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}", hint="`hpo export FILE` writes one.")
    with path.open("rb") as file:
        start = file.read(1)
        if start not in (b"{", _GZIP_MAGIC[:1]):  # it may be anything, and of any size
            raise _no_export(str(path), "it is no JSON")
        return from_bytes(start + file.read(), str(path))
