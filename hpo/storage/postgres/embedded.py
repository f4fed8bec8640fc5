"""The private PostgreSQL of a project's `.hpo` folder: start it, find it, stop it."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.errors import DatabaseError, UsageError
from hpo.host.file_lock import file_lock
from hpo.storage.postgres import embedded_server
from hpo.storage.postgres.embedded_files import ServerFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_WAIT_S = 180.0


@dataclass(frozen=True)
class Status:
    """Where the private server stands.

    Attributes:
        exists: whether its data folder has been made.
        pid: of its main process; None when it does not run.
        port: on 127.0.0.1; None before the first start.
    """

    exists: bool
    pid: int | None
    port: int | None


def ensure_running(home: Path, *, create: bool = False) -> str:
    """Start the server of `home` when it does not run; returns its URL, password included.

    Any number of processes may call it at once. The server outlives them.

    Args:
        home: the project's `.hpo` folder.
        create: whether to make the folder and the database where there are none.

    Raises:
        UsageError: there is no database in `home` and `create` is false.
        DatabaseError: it cannot be started, or another machine runs it.
        StorageFullError: no space is left for it.
    """
    files = _files(home)
    with _permitted():
        if embedded_server.answers(files):
            return files.url()
        if not files.data.exists() and not create:
            raise UsageError(
                f"no project here: {home} holds no database",
                hint="Run `hpo create-study` here, or set HPO_HOME or HPO_STORAGE.",
            )
        home.mkdir(parents=True, exist_ok=True)
    with _guarded(files):
        if not files.data.exists():
            embedded_server.initialise(files)
        _start(files)
    return files.url()


def revive(home: Path) -> str | None:
    """Start the server again when it was killed; None when it was stopped on purpose.

    PostgreSQL removes its pid file when it is stopped and leaves it behind when it is killed.
    """
    files = _files(home)
    with _guarded(files):  # it may be being stopped just now
        if not files.pid_file.exists():
            return None
        _start(files)
    return files.url()


def stop(home: Path) -> bool:
    """Stop the server of `home`, ending its clients' connections; False when it did not run.

    Raises:
        DatabaseError: it does not stop, or another machine runs it.
    """
    files = _files(home)
    with _permitted():
        if not files.data.exists():
            return False
    with _guarded(files):
        if embedded_server.running_pid(files) is not None:
            embedded_server.stop(files)
            return True
        with embedded_server.sole_life(files):
            return False


def status(home: Path) -> Status:
    """Where the server of `home` stands; starts nothing."""
    files = _files(home)
    with _permitted():
        return Status(files.data.exists(), embedded_server.running_pid(files), files.port())


def known_url(home: Path) -> str | None:
    """The URL of the server of `home`, running or not; None where there is none."""
    files = _files(home)
    with _permitted():
        return files.url() if files.data.exists() and files.port() is not None else None


def port(home: Path) -> int | None:
    """The port of the server of `home`; None before the first start."""
    return _files(home).port()


def _start(files: ServerFiles) -> None:
    runs = embedded_server.running_pid(files) is not None
    if not (runs and embedded_server.wait_until_it_answers(files)):
        embedded_server.start(files)
    embedded_server.create_database(files)


def _files(home: Path) -> ServerFiles:
    return ServerFiles(home / "postgres")


@contextmanager
def _guarded(files: ServerFiles) -> Iterator[None]:
    with _permitted():
        files.folder.mkdir(exist_ok=True)
        with file_lock(files.folder / "lock", wait_s=LOCK_WAIT_S):
            yield


@contextmanager
def _permitted() -> Iterator[None]:
    """Turn what the system does not permit inside the block into an error in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise DatabaseError(
            f"this user may not use the private PostgreSQL of this project: {error}",
            hint="Run as the user who made it, or set HPO_HOME to a folder of your own, "
            "or HPO_STORAGE to the URL of a PostgreSQL server.",
        ) from error
