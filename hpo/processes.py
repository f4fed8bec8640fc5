"""Processes that outlive their starter: who they are and how to end them; knows no service."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

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


def end(pid: int, started: float, *, wait_s: float = STOP_S) -> bool:
    """End a process and all below it: politely, then after `wait_s` seconds by force.

    Returns:
        False when that process was gone already.
    """
    if pid == os.getpid() or not is_same(pid, started):
        return False
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    for process in family:
        _signal(process, force=False)
    _, alive = psutil.wait_procs(family, timeout=wait_s)
    for process in alive:
        _signal(process, force=True)
    psutil.wait_procs(alive, timeout=wait_s)
    return True


def _signal(process: psutil.Process, *, force: bool) -> None:
    try:
        process.kill() if force else process.terminate()
    except psutil.NoSuchProcess:
        return  # it went by itself, which is what was wanted
