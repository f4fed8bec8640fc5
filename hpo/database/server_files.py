"""The files of the private PostgreSQL; starts and stops nothing.

Below `home/postgres`, which belongs to the server's user:

    data/       the cluster        password   of the role `hpo`, mode 0600
    log         of this start      port       on 127.0.0.1; kept from start to start
    lock        held while one process starts or stops the server
    alive       locked by the server itself for as long as any of its processes lives
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.database.server_user import ServerUser

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
        """Written by PostgreSQL; removed when it stops, left behind when it is killed."""
        return self.data / "postmaster.pid"

    @property
    def log(self) -> Path:
        """What the server says."""
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
