"""Start and stop the private PostgreSQL's server, and tell whether it lives.

The server and its programs run in a session of their own, so that a Ctrl-C in the starter's
terminal does not reach them.

A pid file proves nothing: after a crash its number may be an innocent process's, and a server in
another container, or on another machine of a shared file system, has a number that means nothing
here. So a server counts as ours when a process of that number is a postgres in our data folder,
and as gone when the lock on `alive`, which all its processes inherit, is free.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from hpo.errors import DatabaseError, StorageFullError
from hpo.host import processes
from hpo.host.file_lock import POLL_S, try_lock
from hpo.host.processes import any_free, is_free
from hpo.storage.postgres.embedded_files import (
    DATABASE,
    HOST,
    ROLE,
    ServerUser,
    find_binaries,
    server_user,
    write_private,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.storage.postgres.embedded_files import ServerFiles

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


START_WAIT_S = 120  # recovery after a crash may take long
STOP_WAIT_S = 60
START_POLL_S = 0.1
LOG_KEEP_BYTES = 1_000_000
PORT_TRIES = 5

# A server for one small machine; fsync and the like keep their safe defaults. The memory type
# keeps clear of a container's 64 MB /dev/shm and of systemd, which removes a user's shared memory
# at log-out and would break a server left running.
OPTIONS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "dynamic_shared_memory_type": "mmap",
    "max_parallel_workers_per_gather": "0",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",
}


def initialise(files: ServerFiles) -> None:
    """Make the cluster beside its place and move it there whole.

    Raises:
        DatabaseError: initdb refuses.
        StorageFullError: no space is left for it.
    """
    # An initdb whose starter was killed goes on by itself, and holds the lock as it does.
    with sole_life(files) as alive:
        _initialise(files, alive)


def _initialise(files: ServerFiles, alive: int) -> None:
    user = _user(files)
    for leftover in files.folder.glob("new-*"):
        shutil.rmtree(leftover)
    files.folder.chmod(0o700)
    if user.prefix:
        os.chown(files.folder, user.uid, user.gid)
    write_private(files.password_file, secrets.token_urlsafe(32) + "\n", user)
    new = files.folder / f"new-{secrets.token_hex(4)}"
    new.mkdir(mode=0o700)
    user.own(new)
    where = ("-D", str(new), "-U", ROLE, f"--pwfile={files.password_file}")
    how = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions")
    try:
        outcome = _run(files, ("initdb", *where, *how), keep=(alive,))
        if outcome.returncode != 0:
            raise _failure(files, "PostgreSQL cannot make its data folder", outcome.stdout)
        new.rename(files.data)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def start(files: ServerFiles) -> None:
    """Start the server on its last port, or on another one when that is taken.

    Raises:
        DatabaseError: it does not start, or another machine runs it.
        StorageFullError: no space is left for it.
    """
    user = _user(files)
    said = ""
    for _ in range(PORT_TRIES):
        with sole_life(files) as alive:
            user.own(files.folder)  # as after a copy made by root
            # Nothing of this server lives, so its pid file is a dead one's. PostgreSQL itself
            # would refuse to start when that number is now another process's.
            files.pid_file.unlink(missing_ok=True)
            write_private(files.port_file, f"{_usable_port(files.port())}\n", user)
            begin = _trim_log(files, user)
            _launch(files, alive)
        if wait_until_it_answers(files):
            return
        said = files.log.read_text(errors="replace")[begin:]
        if "Address already in use" not in said:
            break
        files.port_file.unlink()
    raise _failure(files, "PostgreSQL does not start", said)


def stop(files: ServerFiles) -> None:
    """Stop the server, ending its clients' connections.

    Raises:
        DatabaseError: it does not stop.
    """
    words = ("-D", str(files.data), "-m", "fast", "-t", str(STOP_WAIT_S))
    outcome = _run(files, ("pg_ctl", "stop", *words))
    if outcome.returncode != 0:
        raise _failure(files, "PostgreSQL does not stop", outcome.stdout)


def wait_until_it_answers(files: ServerFiles) -> bool:
    """Wait for a server that is starting, and note its port; False when it ended instead.

    Raises:
        DatabaseError: it does not answer for START_WAIT_S seconds.
    """
    deadline = time.monotonic() + START_WAIT_S
    said = ""
    while time.monotonic() < deadline:
        port = files.written_port()
        if port is not None:
            if port != files.port():
                write_private(files.port_file, f"{port}\n", _user(files))
            try:
                open_connection(files, "postgres").close()
            except psycopg2.OperationalError as error:
                said = str(error)
            else:
                return True
        if not lives(files):
            return False
        time.sleep(START_POLL_S)
    raise _failure(files, "PostgreSQL does not answer", said)


def create_database(files: ServerFiles) -> None:
    """Make the database `hpo` where there is none."""
    with closing(open_connection(files, "postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {DATABASE}")


def _user(files: ServerFiles) -> ServerUser:
    return server_user(files.data, find_binaries().folder)


def _run(
    files: ServerFiles, words: tuple[str, ...], keep: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs to its end; `keep`: descriptors it inherits."""
    return subprocess.run(
        _command(files, words),
        cwd=files.folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
        text=True,
        pass_fds=keep,
        start_new_session=True,
        check=False,
    )


def _launch(files: ServerFiles, alive: int) -> None:
    """Begin the server itself, as nobody's child.

    A supervisor that ends its workers with all their children must not end it with them. The
    shell only forks: pg_ctl, which does that too, lets its shell read our paths as its language.
    """
    options = {**OPTIONS, "port": str(files.port())}
    settings = (word for name, value in options.items() for word in ("-c", f"{name}={value}"))
    words = _command(files, ("postgres", "-D", str(files.data), *settings))
    with files.log.open("ab") as log:
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *words],
            cwd=files.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(alive,),
            start_new_session=True,
            check=True,
        )


def _command(files: ServerFiles, words: tuple[str, ...]) -> list[str]:
    version = files.data / "PG_VERSION"
    binaries = find_binaries(int(version.read_text()) if version.exists() else None)
    return [*_user(files).prefix, str(binaries.folder / words[0]), *words[1:]]


def _environment() -> dict[str, str]:
    # PG* variables of the user would redirect the programs; ours may hold passwords, and the
    # server, which lives long, has no use for them.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "HPO_", "MLFLOW_"))
    }
    return {**kept, "LC_ALL": "C"}


def _trim_log(files: ServerFiles, user: ServerUser) -> int:
    """Begin the log anew when it has grown; returns where this start's part begins, in bytes."""
    if not files.log.exists() or files.log.stat().st_size > LOG_KEEP_BYTES:
        write_private(files.log, "", user)
    return files.log.stat().st_size


def _usable_port(wanted: int | None) -> int:
    """`wanted` when nobody listens there, else a free one."""
    port = wanted if wanted is not None and is_free(wanted) else any_free()
    if port is None:
        raise DatabaseError(f"no free port on {HOST}")
    return port


def _failure(files: ServerFiles, what: str, said: str) -> DatabaseError | StorageFullError:
    if "No space left on device" in said:
        return StorageFullError(
            f"{what}: no space left on the device of {files.folder}",
            hint="Free some space (`df -h .` shows it), or set HPO_HOME elsewhere.",
        )
    lines = [line for line in said.splitlines() if line.strip()]
    end = "\n  ".join(lines[-6:]) or "it said nothing"
    return DatabaseError(f"{what}:\n  {end}", hint=f"Its log: {files.log}")
