"""The private PostgreSQL: one server for any number of starters, and never a wrong process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psutil
import psycopg2
import pytest
from sqlalchemy.engine import make_url

from hpo.errors import DatabaseError, HpoError, UsageError
from hpo.host import processes
from hpo.storage.postgres import embedded
from hpo.storage.postgres.embedded_files import ServerFiles
from hpo.storage.postgres.embedded_server import sole_life

if TYPE_CHECKING:
    from pathlib import Path

STARTER = "import sys, pathlib; from hpo.storage.postgres import embedded; "
START = STARTER + "print(embedded.ensure_running(pathlib.Path(sys.argv[1]), create=True))"


def ask(url: str, statement: str) -> object:
    parts = make_url(url).set(drivername="postgresql")
    with closing(psycopg2.connect(parts.render_as_string(hide_password=False))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None


def with_password(url: str, password: str) -> str:
    return url.replace(f":{make_url(url).password}@", password + "@")


def running_pid(home: Path) -> int:
    pid = embedded.status(home).pid
    assert pid is not None
    return pid


def kill_server(home: Path) -> int:
    pid = running_pid(home)
    os.kill(pid, signal.SIGKILL)
    while processes.start_time(pid) is not None:
        time.sleep(0.02)
    return pid


def test_reading_commands_make_no_project(new_home: Path) -> None:
    """Without `create`, a missing project is a usage error and no folder appears."""
    with pytest.raises(UsageError, match="no project here") as caught:
        embedded.ensure_running(new_home)
    assert "hpo create-study" in caught.value.hint
    assert not new_home.exists()
    assert embedded.stop(new_home) is False
    assert embedded.status(new_home) == embedded.Status(exists=False, pid=None, port=None)


def test_data_port_and_password_stay(home: Path) -> None:
    """A second call finds the server; after a stop it comes back with its port and its rows."""
    url = embedded.ensure_running(home)
    ask(url, "CREATE TABLE kept AS SELECT 42 AS n")
    pid = running_pid(home)
    assert embedded.ensure_running(home) == url
    assert running_pid(home) == pid
    assert embedded.stop(home) is True
    assert embedded.stop(home) is False
    assert embedded.revive(home) is None, "stopped on purpose: it must stay stopped"
    assert embedded.ensure_running(home) == url
    assert ask(url, "SELECT n FROM kept") == 42


def test_only_loopback_and_only_with_the_password(home: Path) -> None:
    """The server listens on 127.0.0.1 alone, without a socket, and trusts nobody."""
    url = embedded.ensure_running(home)
    assert ask(url, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(url, "SHOW unix_socket_directories") == ""
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        ask(with_password(url, ":guess"), "SELECT 1")
    folder = home / "postgres"
    for path in (folder, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        ask(with_password(url, ""), "SELECT 1")


def test_eight_processes_start_one_server(new_home: Path, tmp_path: Path) -> None:
    """Eight processes at once, each with its own temporary folder, get one and the same URL."""
    starters = []
    for number in range(8):
        folder = tmp_path / f"tmp{number}"
        folder.mkdir()
        environment = {**os.environ, "TMPDIR": str(folder)}
        words = [sys.executable, "-c", START, str(new_home)]
        starters.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
    urls = {starter.communicate()[0].strip() for starter in starters}
    assert [starter.returncode for starter in starters] == [0] * 8
    assert urls == {embedded.ensure_running(new_home)}


def test_the_server_is_nobodys_child(home: Path) -> None:
    """A supervisor that ends a worker with all its children does not end the server."""
    embedded.ensure_running(home)
    family = psutil.Process().children(recursive=True)
    assert running_pid(home) not in {process.pid for process in family}
    assert os.getsid(running_pid(home)) != os.getsid(0)


def test_the_server_outlives_its_starter(new_home: Path) -> None:
    """Neither the end of the starting process nor a Ctrl-C in its terminal ends the server."""
    words = [sys.executable, "-c", START + "; input()", str(new_home)]
    starter = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert starter.stdout is not None
    url = starter.stdout.readline().strip()
    os.killpg(starter.pid, signal.SIGINT)  # as a terminal does, to the whole foreground group
    starter.communicate()
    assert ask(url, "SELECT 1") == 1


def test_a_killed_server_comes_back_and_an_innocent_process_lives(home: Path) -> None:
    """A pid file that names another process neither passes for a server nor harms that process."""
    url = embedded.ensure_running(home)
    ask(url, "CREATE TABLE kept AS SELECT 42 AS n")
    dead = kill_server(home)
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as innocent:
        pid_file.write_text(pid_file.read_text().replace(str(dead), str(innocent.pid), 1))
        assert embedded.status(home).pid is None
        assert embedded.stop(home) is False
        assert innocent.poll() is None
        assert embedded.revive(home) == url, "killed, not stopped: it may come back by itself"
        assert ask(url, "SELECT n FROM kept") == 42
        assert embedded.stop(home) is True
        assert innocent.poll() is None
        innocent.communicate()


def test_a_damaged_pid_file_is_no_obstacle(home: Path) -> None:
    """Whatever a crash left in the pid file, the server starts."""
    embedded.ensure_running(home)
    for text in ("", "nonsense\n-1\n", "99999999999999999999\n"):
        kill_server(home)
        (home / "postgres" / "data" / "postmaster.pid").write_text(text)
        assert ask(embedded.ensure_running(home), "SELECT 1") == 1


def test_a_taken_port_is_given_up(home: Path) -> None:
    """When somebody else listens on the port of the last start, a new one is taken and noted."""
    first = embedded.ensure_running(home)
    port = embedded.port(home)
    embedded.stop(home)
    with socket.create_server(("127.0.0.1", port or 0)):
        second = embedded.ensure_running(home)
        assert make_url(second).port != port
        assert embedded.port(home) == make_url(second).port
        assert ask(second, "SELECT 1") == 1
    assert make_url(second).password == make_url(first).password


def test_an_interrupted_first_start_leaves_nothing_half_made(new_home: Path) -> None:
    """Killed while the data folder is being made: there is none yet, and the next start works."""
    words = [sys.executable, "-c", START, str(new_home)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as starter:
        while not list(new_home.glob("postgres/new-*/global")):
            assert starter.poll() is None
        starter.kill()
    assert not (new_home / "postgres" / "data").exists()
    assert ask(embedded.ensure_running(new_home, create=True), "SELECT 1") == 1
    assert not list(new_home.glob("postgres/new-*"))


def test_a_copied_folder_does_not_pass_for_the_first_one(home: Path, tmp_path: Path) -> None:
    """A copy knows the same port and password; it still gets a server and a port of its own."""
    first = embedded.ensure_running(home)
    embedded.stop(home)
    copy = tmp_path / "copy" / ".hpo"
    shutil.copytree(home, copy)
    try:
        assert embedded.ensure_running(home) == first
        second = embedded.ensure_running(copy)
        assert make_url(second).port != make_url(first).port
        ask(second, "CREATE TABLE only_here (n int)")
        assert ask(first, "SELECT to_regclass('only_here')") is None
    finally:
        embedded.stop(copy)


def test_a_moved_project_keeps_its_running_server(home: Path, tmp_path: Path) -> None:
    """A project folder renamed while its server runs is still that server's."""
    url = embedded.ensure_running(home)
    pid = running_pid(home)
    moved = tmp_path / "moved"
    home.rename(moved)
    try:
        assert embedded.ensure_running(moved) == url
        assert running_pid(moved) == pid
        assert embedded.stop(moved) is True
    finally:
        embedded.stop(moved)


def test_a_server_seen_by_its_lock_alone_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server in another container holds its lock: no second one starts on the same data."""
    embedded.ensure_running(home)
    embedded.stop(home)
    monkeypatch.setattr("hpo.storage.postgres.embedded_server.GONE_WAIT_S", 0.2)
    with sole_life(ServerFiles(home / "postgres")):
        for verb in (embedded.ensure_running, embedded.stop):
            with pytest.raises(DatabaseError, match="another machine or container"):
                verb(home)
    assert ask(embedded.ensure_running(home), "SELECT 1") == 1


def test_a_living_server_holds_its_lock(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock that speaks for a server in another container is really held by a server."""
    embedded.ensure_running(home)
    monkeypatch.setattr("hpo.storage.postgres.embedded_server.GONE_WAIT_S", 0.2)
    with pytest.raises(DatabaseError), sole_life(ServerFiles(home / "postgres")):
        pass


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    """The last lines of PostgreSQL's own words stand in the error, and where its log is."""
    embedded.ensure_running(home)
    embedded.stop(home)
    settings = home / "postgres" / "data" / "postgresql.auto.conf"
    settings.write_text("work_mem = 'plenty'\n")
    with pytest.raises(HpoError, match="work_mem") as caught:
        embedded.ensure_running(home)
    assert str(home / "postgres" / "log") in caught.value.hint


def test_any_folder_name_will_do(tmp_path: Path) -> None:
    """Spaces, quotes and what a shell would run are only characters of a folder's name."""
    home = tmp_path / 'it\'s a "new" $(touch made) & `touch made`' / ".hpo"
    try:
        assert ask(embedded.ensure_running(home, create=True), "SELECT 1") == 1
        assert embedded.stop(home) is True
        assert not list(tmp_path.rglob("made"))
    finally:
        embedded.stop(home)


def test_the_log_stays_small(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has grown is begun anew at the next start."""
    embedded.ensure_running(home)
    embedded.stop(home)
    log = home / "postgres" / "log"
    with log.open("a") as file:
        file.write("x" * 2000)
    monkeypatch.setattr("hpo.storage.postgres.embedded_server.LOG_KEEP_BYTES", 1000)
    embedded.ensure_running(home)
    assert "xxx" not in log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down for PostgreSQL")
def test_root_needs_no_wider_permissions(tmp_path: Path) -> None:
    """Below a folder closed to all others it runs as another user, and the folder stays closed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = closed / "deeper" / ".hpo"
    try:
        assert ask(embedded.ensure_running(home, create=True), "SELECT 1") == 1
        data = home / "postgres" / "data"
        assert data.stat().st_uid != 0
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert home.stat().st_uid == 0
    finally:
        embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)
