"""A made folder: whole or not there, and made once; knows not what it is filled with."""

from __future__ import annotations

import errno
import json
import secrets
import shutil
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MARK = "made.json"  # what made the folder, with which parameters


def make(folder: Path, mark: Mapping[str, Any], fill: Callable[[Path], None]) -> bool:
    """Make `folder` by `fill`, unless equal parameters already made it.

    It is filled under another name beside its place and renamed, so an interrupted making leaves
    nothing that looks finished, and of two processes at once one wins and both get the same.

    Args:
        folder: where it shall be; absent, empty, or made with the same mark.
        mark: what makes it: a name and every parameter; plain JSON values.
        fill: writes the content into the folder it is given.

    Returns:
        Whether it was made now.

    Raises:
        UsageError: something else is in that place.
    """
    if stands(folder, mark):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    part.mkdir()
    try:
        fill(part)
        (part / MARK).write_text(json.dumps(dict(mark), indent=2) + "\n", encoding="utf-8")
        try:
            part.rename(folder)
        except OSError as error:
            lost_race = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not (lost_race and stands(folder, mark)):
                raise
            return False
        return True
    finally:
        shutil.rmtree(part, ignore_errors=True)


def stands(folder: Path, mark: Mapping[str, Any]) -> bool:
    """Whether `folder` is there, made with this mark.

    Raises:
        UsageError: something else is in that place.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder to be made")
    there = _mark(folder)
    if there == dict(mark):
        return True
    if not any(folder.iterdir()):
        return False
    if there is None:
        what = "is not empty, and was not made by this command"
    else:
        differ = sorted(k for k in {*there, *mark} if there.get(k) != mark.get(k))
        said = (f"{k} {there.get(k)} there, {mark.get(k)} asked" for k in differ)
        what = f"was made with other parameters: {'; '.join(said)}"
    raise UsageError(f"{folder} {what}", hint="Name another folder with `-o DIR`, or remove it.")


def _mark(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
