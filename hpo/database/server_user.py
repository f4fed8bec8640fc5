"""The operating-system user that the private PostgreSQL runs as; knows no server.

PostgreSQL refuses to run as root. When we are root it runs as another user, and where the folders
above its programs or its data are closed to that user it gets one capability (CAP_DAC_OVERRIDE)
instead of wider permissions on folders that are not ours to open. `no_setuid_fixup` is part of
that: without it access(2), which the programs ask about themselves, ignores capabilities.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.errors import DatabaseError

if TYPE_CHECKING:
    from pathlib import Path

CANDIDATES = ("postgres", "nobody")
HINT = "Run as a normal user, or set HPO_STORAGE to the URL of a PostgreSQL server."


@dataclass(frozen=True)
class ServerUser:
    """Who runs the server.

    Attributes:
        uid: user id of the server's processes.
        gid: group id of the server's processes.
        prefix: what a command line starts with to run as that user; () when it is ourselves.
    """

    uid: int
    gid: int
    prefix: tuple[str, ...]

    def own(self, path: Path) -> None:
        """Give `path` to the server's user, with everything in it; nothing when that is us."""
        if not self.prefix:
            return
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        if path.is_dir() and not path.is_symlink():
            for entry in path.iterdir():
                self.own(entry)


def server_user(data: Path, programs: Path) -> ServerUser:
    """Who runs the server of the data folder `data`, which need not exist yet.

    Raises:
        DatabaseError: nobody can: another user's data, or root with no way to step down.
    """
    if os.geteuid() != 0:
        if data.exists() and data.stat().st_uid != os.geteuid():
            owner = _name(data.stat().st_uid)
            raise DatabaseError(
                f"{data} belongs to {owner}, and PostgreSQL runs only as its owner",
                hint=f"Run as {owner}, or set HPO_HOME to a folder of your own.",
            )
        return ServerUser(os.geteuid(), os.getegid(), ())
    account = _account(data)
    return ServerUser(account.pw_uid, account.pw_gid, _prefix(account, data, programs))


def _account(data: Path) -> pwd.struct_passwd:
    owner = data.stat().st_uid if data.exists() else 0
    if owner:
        try:
            return pwd.getpwuid(owner)
        except KeyError:
            # A folder mounted into a container often has an owner unknown there.
            name = f"uid {owner}"
            return pwd.struct_passwd((name, "x", owner, data.stat().st_gid, "", "/", "/bin/sh"))
    for name in CANDIDATES:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise DatabaseError(
        f"PostgreSQL refuses to run as root, and there is no user {' or '.join(CANDIDATES)}",
        hint=HINT,
    )


def _prefix(account: pwd.struct_passwd, data: Path, programs: Path) -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise DatabaseError(
            "PostgreSQL refuses to run as root, and `setpriv` (util-linux), with which it would "
            f"run as {account.pw_name}, is not installed",
            hint=HINT,
        )
    prefix = [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    if not (_open_to_all(data.parent.parent) and _open_to_all(programs)):
        prefix += [
            "--securebits=+no_setuid_fixup",
            "--inh-caps=+dac_override",
            "--ambient-caps=+dac_override",
        ]
    return (*prefix, "--")


def _open_to_all(folder: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
