"""The workers of a run: real `hpo worker` processes, replaced when they end."""

from __future__ import annotations

import os
import signal
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from faults.steps import Step
    from faults.world import World

SKEW_S = 86400  # how far ahead the clock of some workers is
WORN_S = 1.0  # a worker that ended by itself is not replaced sooner: it may end at once again


@dataclass
class Crew:
    """One worker process.

    Attributes:
        process: it.
        log: its output.
        began: when, in seconds since 1970.
        step: where it is to die; None for nowhere.
        mark: written by the process as it dies there.
        skewed: whether its clock is ahead.
        killed: when it was sent SIGKILL; None: it was not.
        asked: when it was asked to leave; None: it was not.
        wakes: when a stopped one is continued; None: it runs.
        ended: when it was found to have ended; None while it runs.
    """

    process: subprocess.Popen[bytes]
    log: Path
    began: float
    mark: Path
    step: Step | None = None
    skewed: bool = False
    killed: float | None = None
    asked: float | None = None
    wakes: float | None = None
    ended: float | None = None
    family: list[psutil.Process] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def reached(self) -> bool:
        """Whether it died at its step."""
        if self.step is None or not self.mark.exists():
            return False
        return self.mark.read_text().startswith(self.step.text(0)[:-1])

    def kill(self, *, machine: bool) -> None:
        """SIGKILL it, its training too where the whole machine goes."""
        training = self._children() if machine else []
        self.killed = time.time()
        self.process.kill()
        for child in training:
            _signal(child, signal.SIGKILL)

    def ask(self) -> None:
        """SIGTERM."""
        self.asked = time.time()
        self.process.terminate()

    def pause(self, until: float, *, machine: bool) -> None:
        """SIGSTOP it, its training too where the whole machine freezes."""
        self.wakes = until
        self.family = self._children() if machine else []
        for one in (*self.family, psutil.Process(self.pid)):
            _signal(one, signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self.wakes = None
        self.process.send_signal(signal.SIGCONT)
        for child in self.family:
            _signal(child, signal.SIGCONT)

    def _children(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []


class Fleet:
    """Keeps so many workers of a study alive until it is told to stop.

    Attributes:
        crews: every worker there ever was.
        to_die: steps at which the next new workers are to die, with the call.
        last_step: where all workers are to die besides; None for nowhere.
        growing: whether ended workers are replaced.
    """

    def __init__(self, world: World, study: str, size: int, *, skewed: int = 1) -> None:
        self._world, self._study, self._size, self._skewed = world, study, size, skewed
        self.crews: list[Crew] = []
        self.to_die: list[tuple[Step, int]] = []
        self.last_step: Step | None = None
        self.growing = True
        self.more_env: dict[str, str] = {}

    @property
    def living(self) -> list[Crew]:
        """Those that run."""
        return [crew for crew in self.crews if crew.ended is None]

    def tick(self) -> None:
        """Note who ended, continue who slept long enough, replace who is gone."""
        now = time.time()
        for crew in self.living:
            if crew.process.poll() is not None:
                crew.ended = now
                if crew.step is not None and not crew.reached:
                    self.to_die.append((crew.step, 1))  # something else was quicker: once more
            elif crew.wakes is not None and now >= crew.wakes:
                crew.wake()
        worn = [crew for crew in self.crews if crew.process.returncode not in (None, -9)]
        tired = any(crew.ended is not None and now - crew.ended < WORN_S for crew in worn)
        if self.growing and len(self.living) < self._size and not tired:
            self._add()

    def _add(self) -> None:
        step, call = self.to_die.pop(0) if self.to_die else (None, 1)
        kills = [step.text(call)] if step is not None else []
        kills += [self.last_step.text()] if self.last_step is not None else []
        skewed = sum(crew.skewed for crew in self.living) < self._skewed
        mark = self._world.folder / f"mark-{uuid.uuid4().hex[:8]}"
        env = {"HPO_TEST_KILL": " ".join(kills), "HPO_TEST_MARK": str(mark), **self.more_env}
        env |= {"HPO_TEST_TRACE": str(self._world.folder / "trace")}
        env |= {"HPO_TEST_CLOCK": str(SKEW_S)} if skewed else {}
        words = ("worker", "--study", self._study, "--device", "cpu")
        process, log = self._world.start(*words, **env)
        self.crews.append(Crew(process, log, time.time(), mark, step, skewed))

    def wait(self, timeout_s: float) -> bool:
        """Wait until all have ended; False when some did not."""
        until = time.monotonic() + timeout_s
        self.growing = False
        while self.living and time.monotonic() < until:
            self.tick()
            time.sleep(0.1)
        return not self.living

    def end(self) -> None:
        """SIGKILL what is left."""
        self.growing = False
        for crew in self.living:
            crew.kill(machine=True)
            crew.ended = time.time()
            crew.process.wait()


def _signal(process: psutil.Process, number: int) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return  # it ended meanwhile
