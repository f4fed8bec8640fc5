"""Start one training process, exchange messages with it, and tell how it died."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import TrialError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from workers.training_process.messages import Answer, Reply, Request

TICK_S = 0.5  # how often a wait looks for a death, a stall or the worker's own wish to stop
START_S = 300.0  # imports of torch from a cold network disk take minutes
DYING_S = 5.0  # how long a process may take to end after its connection did
TAIL_LINES = 12
TAIL_BYTES = 4000
# The child needs no service, so it gets no address, no password, no key and no token
PRIVATE = (
    *("HPO_STORAGE", "HPO_ADMIN_STORAGE", "HPO_READER_STORAGE", "PGPASSWORD", "PGPASSFILE"),
    *("MLFLOW_", "AWS_", "RAY_AUTH_"),
)


class Interrupted(Exception):  # noqa: N818 - an answer to the worker's own wish, not an error
    """The worker wished to stop while the child was training; the child was killed."""


class ChildHandle:
    """One training process, in a session of its own so that no terminal signal reaches it.

    Attributes:
        log: file that holds everything the process printed.
    """

    def __init__(
        self, trainer: str, log: Path, env: Mapping[str, str], scratch: Path | None = None
    ) -> None:
        self.log = log
        self._killed = False
        self._ready = False
        # Settings, fonts and the like that libraries insist on writing; removed with the child
        self._scratch = Path(tempfile.mkdtemp(prefix="hpo-training-", dir=scratch))
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    # -P: a folder `workers` or `hpo` in the current folder is none of ours
                    [
                        *(sys.executable, "-P", "-m", "workers.training_process.server"),
                        *(trainer, str(theirs.fileno()), str(lifeline)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(), lifeline),
                    start_new_session=True,
                    env=_environment(env, self._scratch),
                )
        finally:
            theirs.close()
            os.close(lifeline)
        self._connection: Connection[Any, Any] = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """The child's process id, which is its process group's too."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child still runs."""
        return self._process.poll() is None

    def wait_ready(self, interrupted: Callable[[], bool] | None = None) -> None:
        """Wait until the child's imports are over, so that no training is blamed for them.

        Raises:
            TrialError: as `receive`.
            Interrupted: as `receive`.
        """
        if not self._ready:
            self.receive(stall_timeout_s=START_S, interrupted=interrupted)
            self._ready = True

    def send(self, message: Request | Answer) -> None:
        """Send a message; raises TrialError when the process is dead."""
        try:
            self._connection.send(message)
        except OSError:
            raise self._death() from None

    def receive(
        self, *, stall_timeout_s: float | None = None, interrupted: Callable[[], bool] | None = None
    ) -> Reply:
        """Wait for the next message.

        Raises:
            TrialError: the process died (`crashed`, `out_of_memory`) or said nothing for
                `stall_timeout_s` seconds (`hung`); it is gone then.
            Interrupted: `interrupted()` said so; the process is gone then.
        """
        since = time.monotonic()
        try:
            while not self._connection.poll(TICK_S):
                # Looked at even without an end of file: loader processes that outlive the child
                # hold its end of the connection
                if not self.alive and not self._connection.poll(0):
                    raise self._death()
                if interrupted is not None and interrupted():
                    self.kill()
                    raise Interrupted
                silent_s = time.monotonic() - since
                if stall_timeout_s is not None and silent_s > stall_timeout_s:
                    self.kill()
                    raise TrialError(
                        "hung", f"silent for {silent_s:.0f} s, the limit is {stall_timeout_s:g} s"
                    )
            reply: Reply = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        return reply

    def close(self) -> None:
        """Let the child end by itself, then make sure that it and all it started are gone."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # kill() below is the answer
            self._process.wait(DYING_S)
        self.kill()

    def kill(self) -> None:
        """End the child and all it started, at once; harmless when it is gone."""
        self._killed = True
        with contextlib.suppress(ProcessLookupError):  # the whole group has ended already
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _death(self) -> TrialError:
        ours = self._killed
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hung up and stays: killed below
            self._process.wait(DYING_S)
        code = self._process.poll()
        self.kill()
        tail = _tail(self.log)
        if code == -signal.SIGKILL and not ours:
            # Only the kernel and people send it; dmesg tells which, but not to everybody
            return TrialError("out_of_memory", f"killed (SIGKILL): likely out of memory{tail}")
        return TrialError("crashed", f"the training process {_ending(code)}{tail}")


def _ending(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "".join(f"\n  {line}" for line in lines[-TAIL_LINES:])


def _environment(extra: Mapping[str, str], scratch: Path) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    # Unbuffered: the log of a process that crashed must hold its last words
    return {**env, "PYTHONUNBUFFERED": "1", "HPO_SCRATCH": str(scratch), **extra}
