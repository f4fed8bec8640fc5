"""Processes that outlive their starter: known by start time, ended with all that they started."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hpo.host import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
# A leader that starts a child, tells its pid and sleeps; the second one ignores SIGTERM.
FAMILY = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', "
    "'import time; time.sleep(600)']); print(child.pid, flush=True); time.sleep(600)"
)
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def started(process: subprocess.Popen[str]) -> float:
    moment = processes.start_time(process.pid)
    assert moment is not None
    return moment


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    """A process with a session of its own."""
    with start(SLEEP) as process:
        first_line(process)
        yield process
        process.kill()


def test_a_process_is_known_by_its_start_time(sleeper: subprocess.Popen[str]) -> None:
    """The same pid with another start time is another process, and is not ended."""
    moment = started(sleeper)
    assert processes.is_same(sleeper.pid, moment)
    assert not processes.is_same(sleeper.pid, moment - 5)
    assert processes.end_session(sleeper.pid, moment - 5) is False
    assert sleeper.poll() is None


def test_a_session_ends_with_its_children() -> None:
    """Leader and child are both ended; a second time there is nothing to end."""
    with start(FAMILY) as leader:
        child = int(first_line(leader))
        moment = started(leader)
        assert processes.end_session(leader.pid, moment) is True
        assert processes.start_time(child) is None
        assert processes.end_session(leader.pid, moment) is False


def test_what_a_dead_leader_left_behind_is_ended() -> None:
    """A service whose first process was killed does not keep its port."""
    with start(FAMILY) as leader:
        child = int(first_line(leader))
        moment = started(leader)
        leader.kill()
        leader.wait()
        assert processes.start_time(child) is not None
        assert processes.end_session(leader.pid, moment) is True
        assert processes.start_time(child) is None


def test_a_process_that_will_not_end_is_ended_by_force() -> None:
    """Politeness has a limit."""
    with start(STUBBORN) as process:
        first_line(process)
        assert processes.end_session(process.pid, started(process), wait_s=0.3) is True
        assert processes.start_time(process.pid) is None


def test_nobody_is_no_error() -> None:
    """A pid that no process has: no start time, no command line, nothing to end."""
    with start("print()") as process:
        first_line(process)
        process.wait()
    assert processes.start_time(process.pid) is None
    assert processes.command_line(process.pid) == []
    assert processes.end_session(process.pid, 0.0) is False
    assert processes.command_line(os.getpid())
