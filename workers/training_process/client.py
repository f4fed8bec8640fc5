"""Train in a warm process that is reused from trial to trial and replaced when it dies."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hpo.errors import TrialError
from hpo.trainer import Directive, Evaluation, Package, Result
from workers.training_process.handle import ChildHandle, Interrupted
from workers.training_process.messages import (
    Answer,
    Done,
    Evaluate,
    ExportOnnx,
    Failed,
    Pack,
    Prepare,
    Reported,
    Train,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from hpo.trainer import Epoch, Job
    from workers.training_process.messages import Reply, Request

T = TypeVar("T")

STOP_GRACE_S = 20.0  # how long a training may take to leave after it was told to
_numbers = itertools.count(1)


def prepare_model(trainer_name: str, model: str, log_dir: Path) -> Path:
    """Have the file that trainings of `model` start from, in a process of its own.

    Raises:
        HpoError: it cannot be had, or is no model.
        TrialError: the process died of it.
    """
    with TrainingProcess(trainer_name, log_dir) as process:
        return process.prepare(model)


class TrainingProcess:
    """Trains in a child process that is started when needed and reused while it is healthy.

    A crash, a hang or a full memory is raised as TrialError and costs one child, never the
    worker. Not for several threads at once, except `kill`.

    Attributes:
        jobs_done: trainings that the present child ended well; 0 right after a new one started.
    """

    def __init__(
        self,
        trainer_name: str,
        log_dir: Path,
        env: Mapping[str, str] | None = None,
        *,
        scratch: Path | None = None,
    ) -> None:
        """Remember what to start; starts nothing.

        Args:
            trainer_name: the trainer's entry point.
            log_dir: each child's output goes to a file of its own in here.
            env: variables of the child beside this process's own.
            scratch: where each child gets a folder for what libraries insist on writing; None
                takes the system's folder for such.
        """
        self.jobs_done = 0
        self._trainer = trainer_name
        self._log_dir = log_dir
        self._env = dict(env or {})
        self._scratch = scratch
        self._child: ChildHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id; None when none runs."""
        return self._child.pid if self._child is not None and self._child.alive else None

    @property
    def log(self) -> Path | None:
        """The file with the present or last child's output; None before the first one."""
        return self._child.log if self._child is not None else None

    def warm(self) -> None:
        """Start the child now, so that its imports are over when the first job comes."""
        self._running()

    def train(
        self,
        job: Job,
        report: Callable[[Epoch], Directive],
        *,
        poll: Callable[[], Directive | None] | None = None,
        stall_timeout_s: float | None = None,
    ) -> Result:
        """Train in the child; `report` is called here for every epoch, what it answers sent back.

        Args:
            job: the training.
            report: may raise: the child is told to stop, and the exception goes on to the
                caller once the child is idle again or gone.
            poll: called about twice a second while an epoch runs. STOP ends the training at
                once, by ending the child; a Result without weights is returned then.
            stall_timeout_s: longest silence of the child; None for no limit. The start of a child
                does not count, what a trainer does after the last epoch (its pictures) does.

        Raises:
            TrialError: the training failed; the next job gets a new child where needed.
            CheckpointError: the job cannot go on from its checkpoint; nothing was trained.
        """
        child = self._running()
        interrupted = None if poll is None else lambda: poll() is Directive.STOP
        settled = False
        try:
            child.wait_ready(interrupted)
            child.send(Train(job))
            while True:
                reply = child.receive(stall_timeout_s=stall_timeout_s, interrupted=interrupted)
                if not isinstance(reply, Reported):
                    settled = True
                    break
                try:
                    directive = report(reply.epoch)
                except BaseException:
                    settled = self._let_leave(child)
                    raise
                child.send(Answer(directive))
        except Interrupted:
            return Result(best_epoch=None, weights=None)
        finally:
            if not settled:
                self.kill()
        result = self._value(reply, Result)
        self.jobs_done += 1
        return result

    def evaluate(self, weights: Path, job: Job, split: str) -> Evaluation:
        """Evaluate in the child; see `Trainer.evaluate`."""
        return self._ask(Evaluate(weights, job, split), Evaluation)

    def evaluate_unless(
        self, weights: Path, job: Job, split: str, poll: Callable[[], Directive | None]
    ) -> Evaluation | None:
        """Evaluate; None when `poll`, called about twice a second, answered STOP.

        The evaluation is then ended at once, by ending the child.
        """
        try:
            return self._ask(
                Evaluate(weights, job, split), Evaluation, lambda: poll() is Directive.STOP
            )
        except Interrupted:
            return None

    def package(self, weights: Path, job: Job) -> Package:
        """Package in the child; see `Trainer.package`."""
        return self._ask(Pack(weights, job), Package)

    def export_onnx(self, weights: Path, job: Job) -> Path:
        """Export in the child; see `OnnxExporter.export_onnx`.

        Raises:
            ExportError: the trainer has no such export, or it finds something else.
        """
        return self._ask(ExportOnnx(weights, job), Path)

    def prepare(self, model: str) -> Path:
        """Have the file that trainings of `model` start from; see `PinnedModelTrainer.prepare`."""
        return self._ask(Prepare(model), Path)

    def close(self) -> None:
        """End the child in order."""
        if self._child is not None:
            self._child.close()
        self.jobs_done = 0

    def kill(self) -> None:
        """End the child at once; a `train` that runs in another thread raises `crashed`."""
        if self._child is not None:
            self._child.kill()
        self.jobs_done = 0

    def _running(self) -> ChildHandle:
        if self._child is None or not self._child.alive:
            self.kill()  # clears up after a child that died while idle
            log = self._log_dir / f"training-{os.getpid()}-{next(_numbers)}.log"
            self._child = ChildHandle(self._trainer, log, self._env, self._scratch)
        return self._child

    def _ask(
        self, request: Request, kind: type[T], interrupted: Callable[[], bool] | None = None
    ) -> T:
        child = self._running()
        reply = None
        try:
            child.wait_ready(interrupted)
            child.send(request)
            reply = child.receive(interrupted=interrupted)
        finally:
            if reply is None:
                self.kill()
        return self._value(reply, kind)

    def _value(self, reply: Reply, kind: type[T]) -> T:
        if isinstance(reply, Failed):
            if reply.retire:
                self.close()
            raise reply.error
        value: Any = reply.value if isinstance(reply, Done) else reply
        if not isinstance(value, kind):
            raise TypeError(f"the trainer returned {value!r}, expected a {kind.__name__}")
        return value

    def _let_leave(self, child: ChildHandle) -> bool:
        """Answer STOP and wait until the child is idle; whether it is."""
        try:
            child.send(Answer(Directive.STOP))
            return isinstance(child.receive(stall_timeout_s=STOP_GRACE_S), Done)
        except TrialError:
            return False  # it died or hung instead: its worker has a reason of its own to tell
