"""Start launches that stay in the background, find them again, and drain them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hpo.host import processes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DRAIN_S = 60.0  # for the workers' epochs to end
_FOLDER = "background"


@dataclass(frozen=True)
class Background:
    """One process that outlives its starter.

    Attributes:
        name: what it does.
        pid: of it, the leader of a session of its own.
        started: its start time, as `processes.start_time` gives it.
    """

    name: str
    pid: int
    started: float


def start_background(home: Path, name: str, command: Sequence[str]) -> Path:
    """Start a command in a session of its own; returns its log.

    Args:
        home: the project's folder, which exists.
        name: for its log and its record.
        command: its arguments; passwords belong into the environment, which it inherits.
    """
    log = home / "logs" / f"{name}.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    item = Background(name, process.pid, processes.start_time(process.pid) or 0.0)
    folder = home / _FOLDER
    folder.mkdir(exist_ok=True)
    # One file each: two launches at once do not overwrite each other's record.
    (folder / f"{process.pid}.json").write_text(json.dumps(asdict(item)))
    process.returncode = 0  # it is meant to outlive us; Popen would warn that nobody waited
    return log


def any_background(home: Path) -> bool:
    """Whether a launch still runs in the background."""
    return any(
        processes.is_same(item.pid, item.started)
        for item in (_read(file) for file in (home / _FOLDER).glob("*.json"))
    )


def _read(file: Path) -> Background:
    return Background(**json.loads(file.read_text()))


def drain_backgrounds(home: Path) -> list[Background]:
    """End all background launches in order: workers finish their epochs; returns those that ran."""
    ran = []
    for file in sorted((home / _FOLDER).glob("*.json")):
        item = _read(file)
        if processes.is_same(item.pid, item.started):
            ran.append(item)
            # To the launcher alone: its Ray processes must live until the workers have left.
            os.kill(item.pid, signal.SIGTERM)
            deadline = time.monotonic() + DRAIN_S
            while processes.is_same(item.pid, item.started) and time.monotonic() < deadline:
                time.sleep(0.2)
        processes.end_session(item.pid, item.started)
        file.unlink(missing_ok=True)
    return ran
