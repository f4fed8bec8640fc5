"""`hpo launch` whose terminal is closed, or which is killed: nothing is lost, nothing runs on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
from support.command_line import HPO, Project, wait_for

pytestmark = pytest.mark.cluster  # whole launches

STUDY = """
study: pretended
trainer: simulated
search_space: simulated
budget: {trials: 4, epochs: 10}
pruner: none
train: {epoch_s: 1.0}
"""

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

# A terminal's shell makes its command the leader of what the terminal's end is told to
IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A terminal in which one command runs."""

    def __init__(self, project: Project, *arguments: str) -> None:
        self._screen, inner = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, HPO, *arguments], cwd=project.folder,
            env=project.env, stdin=inner, stdout=inner, stderr=inner,
        )  # fmt: skip
        os.close(inner)

    def close(self) -> None:
        """What a window's cross does."""
        with suppress(OSError):
            os.close(self._screen)


def make_study(project: Project) -> None:
    (project.folder / "hpo.yaml").write_text(STUDY)
    project.run("create-study")


def attempts(project: Project) -> list[tuple[int, str]]:
    """(attempt, how it ended) of every claim of every trial so far."""
    shown = (project.json("show", str(trial["number"])) for trial in project.json("trials"))
    return [(one["attempt"], one["how"]) for trial in shown for one in trial["attempts"]]


def test_a_closed_terminal_lets_the_epochs_end(project: Project) -> None:
    """The workers give their trials back, Ray's processes are gone, and the study is resumable.

    While it ran, nothing of the private Ray was open to other machines.
    """
    project.env |= {"HPO_LEASE_S": "120"}  # no expiry helps
    make_study(project)
    terminal = Terminal(project, "launch", "--workers", "2")
    try:
        wait_for(lambda: running_epochs(project) == 2, "two trials with an epoch")
        started = psutil.Process(terminal.process.pid).children(recursive=True)
        open_at = listening(psutil.Process(terminal.process.pid), *started)
        assert open_at
        assert open_at <= LOOPBACK
        terminal.close()
        assert terminal.process.wait(timeout=90) == 0
    finally:
        terminal.close()
        terminal.process.kill()
        terminal.process.wait()
    assert psutil.wait_procs(started, timeout=20)[1] == []
    status = project.json("status")
    assert (status["state"], status["workers"]) == ("open", [])
    unfinished = [ended for _, ended in attempts(project) if ended != "told"]
    assert unfinished == ["released", "released"]


def listening(*processes: psutil.Process) -> set[str]:
    """Addresses at which any of these takes connections."""
    return {
        one.laddr.ip
        for process in processes
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }


def running_epochs(project: Project) -> int:
    """Running trials that have an epoch."""
    return sum(bool(worker["epoch"]) for worker in project.json("status")["workers"])


def test_a_killed_launch_is_gone_on_with(project: Project) -> None:
    """SIGKILL ends its Ray and its workers; the next launch takes the trials over, exactly."""
    make_study(project)
    launched = project.start("launch", "--workers", "2")
    try:
        wait_for(lambda: running_epochs(project) == 2, "two trials with an epoch")
        family = psutil.Process(launched.pid).children(recursive=True)
    finally:
        launched.kill()
        launched.wait()
    assert len(family) >= 5
    # Ray's agents find out by themselves that nobody is left, the slowest after a minute
    assert psutil.wait_procs(family, timeout=150)[1] == []
    project.run("launch", "--workers", "2")
    status = project.json("status")
    assert (status["state"], status["budget"]["claimed"]) == ("finished", 4)
    ended = [ended for _, ended in attempts(project)]
    assert (ended.count("silent"), ended.count("told")) == (2, 4)


def test_a_detached_launch_outlives_its_terminal_and_can_be_watched(project: Project) -> None:
    """`--detach`, the window's cross, then `hpo status --watch` from another one, to the end."""
    make_study(project)
    terminal = Terminal(project, "launch", "--detach", "--workers", "2")
    try:
        assert terminal.process.wait(timeout=60) == 0
    finally:
        terminal.close()
        terminal.process.kill()
        terminal.process.wait()
    watched = project.run("status", "--watch", "--json", timeout_s=180)
    states = [json.loads(line)["state"] for line in watched.splitlines()]
    assert "running" in states
    assert states[-1] == "finished"
    assert {ended for _, ended in attempts(project)} == {"told"}
