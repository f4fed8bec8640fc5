"""Whether the private PostgreSQL lives; starts and stops nothing.

A pid file proves nothing: after a crash its number may be an innocent process's, and a server in
another container, or on another machine of a shared file system, has a number that means nothing
here. So a server counts as ours when a process of that number is a postgres in our data folder,
and as gone when the lock on `alive`, which all its processes inherit, is free.
"""

from __future__ import annotations

import os
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from hpo.database.server_files import DATABASE, HOST, ROLE
from hpo.errors import DatabaseError
from hpo.host import processes
from hpo.host.file_lock import POLL_S, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.database.server_files import ServerFiles

GONE_WAIT_S = 15.0  # for the orphans of a killed server to notice and end


def running_pid(files: ServerFiles) -> int | None:
    """The pid of this folder's server; None when no process that we can see is it."""
    pid = files.written_pid()
    if pid is None or processes.start_time(pid) is None:
        return None
    words = processes.command_line(pid)
    if not words or "postgres" not in Path(words[0]).name:
        return None
    here = processes.works_in(pid, files.data)
    if here is None:  # root without CAP_SYS_PTRACE, as in a container, may not see the folder
        here = str(files.data) in words
    return pid if here else None


@contextmanager
def sole_life(files: ServerFiles) -> Iterator[int]:
    """Hold the lock that a living server holds; yields its descriptor, for the next one.

    Raises:
        DatabaseError: a process that we do not see as this server keeps holding it.
    """
    with _alive_file(files) as descriptor:
        deadline = time.monotonic() + GONE_WAIT_S
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"another machine or container runs the PostgreSQL of {files.folder}",
                    hint="Stop it there with `hpo down`, or share it: set HPO_STORAGE to its URL.",
                )
            time.sleep(POLL_S)
        yield descriptor


@contextmanager
def _alive_file(files: ServerFiles) -> Iterator[int]:
    path = files.folder / "alive"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lives(files: ServerFiles) -> bool:
    """Whether the server of this folder runs, be it here or where we cannot see it."""
    with _alive_file(files) as descriptor:
        return not try_lock(descriptor) or running_pid(files) is not None


def answers(files: ServerFiles) -> bool:
    """Whether this folder's own server takes a connection to the database now."""
    if files.port() is None or not files.pid_file.exists():
        return False
    try:
        with closing(open_connection(files, DATABASE)) as connection:
            # A copy of the folder knows the same port and password.
            folder = _folder(connection)
    except (psycopg2.Error, OSError):
        return False
    return folder == str(files.data.resolve())


def open_connection(files: ServerFiles, database: str) -> psycopg2.extensions.connection:
    """A connection of the role `hpo`, which is the server's superuser.

    Raises:
        psycopg2.OperationalError: the server does not answer, or is not ours.
    """
    return psycopg2.connect(
        host=HOST,
        port=files.port(),
        user=ROLE,
        password=files.password(),
        dbname=database,
        connect_timeout=10,
        application_name="hpo",
    )


def _folder(connection: psycopg2.extensions.connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('data_directory')")
        row = cursor.fetchone()
    return str(row[0]) if row else ""
