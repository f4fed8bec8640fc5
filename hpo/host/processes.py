"""Start times, ends and command lines of processes, and free TCP ports on the loopback."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import subprocess

STOP_S = 15.0
SAME_S = 0.5  # a start time written as JSON and read again may differ in its last digits


def start_time(pid: int) -> float | None:
    """When the process started, in seconds on a clock that is never set; None when there is none.

    A pid alone names nobody for long: pids are given again. With its start time it does.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return float(process.create_time())
        # Counted from the boot, so that setting the machine's clock changes nothing. The second
        # field is the program's name, which may hold spaces and brackets.
        ticks = stat.read_text().rpartition(")")[2].split()[19]
        return int(ticks) / os.sysconf("SC_CLK_TCK")
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


def command_line(pid: int) -> list[str]:
    """The process's arguments; [] when there is no such process or it may not be looked at."""
    try:
        return [str(word) for word in psutil.Process(pid).cmdline()]
    except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError, OverflowError):
        return []


def works_in(pid: int, folder: Path) -> bool | None:
    """Whether the process's current folder is `folder`; None when that may not be seen."""
    try:
        return Path(psutil.Process(pid).cwd()).resolve() == folder.resolve()
    except psutil.AccessDenied:
        return None
    except (psutil.NoSuchProcess, OSError, ValueError, OverflowError):
        return False


def is_same(pid: int, started: float) -> bool:
    """Whether the process that started then under that pid still runs."""
    now = start_time(pid)
    return now is not None and abs(now - started) < SAME_S


def session(leader: int, started: float) -> list[psutil.Process]:
    """The living processes of the session that `leader` began, itself included while it lives.

    They stay a session when the leader dies, and its number is not given to another process
    before the last of them is gone.

    Args:
        leader: pid of the process that began the session.
        started: its start time, as `start_time` gave it.
    """
    if start_time(leader) is not None and not is_same(leader, started):
        return []  # the number is another's by now, so the whole session is gone
    return [
        psutil.Process(pid)
        for pid in psutil.pids()
        if _session_id(pid) == leader and (start_time(pid) or 0) >= started - SAME_S
    ]


def release(process: subprocess.Popen[bytes]) -> None:
    """Let a started process outlive this one, without Python's warning that nobody waited."""
    if process.poll() is None:
        process.returncode = 0


def end_session(leader: int, started: float, *, wait_s: float = STOP_S) -> bool:
    """End a session's processes: politely, then after `wait_s` seconds by force.

    Returns:
        False when all of them were gone already.
    """
    family = session(leader, started)
    for process in family:
        _signal(process, force=False)
    _, alive = psutil.wait_procs(family, timeout=wait_s)
    for process in alive:
        _signal(process, force=True)
    psutil.wait_procs(alive, timeout=wait_s)
    return bool(family)


def _session_id(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _signal(process: psutil.Process, *, force: bool) -> None:
    try:
        process.kill() if force else process.terminate()
    except psutil.NoSuchProcess:
        return  # it went by itself, which is what was wanted


HOST = "127.0.0.1"
TRIES = 100


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now; another may be quicker."""
    return _bind(port) is not None


def any_free() -> int | None:
    """A port that the system gives; None when it has none left."""
    return _bind(0)


def next_free(first: int) -> int | None:
    """The first free port from `first` upward; None when the next 100 are all taken."""
    return next((port for port in range(first, min(first + TRIES, 65536)) if is_free(port)), None)


def _bind(port: int) -> int | None:
    with closing(socket.socket()) as probe:
        # As servers do: connections of an earlier server that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
