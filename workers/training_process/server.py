"""The training process itself: serve a worker's requests one by one, and die with the worker.

`workers.training_process.handle` starts it as
`python -m workers.training_process.server TRAINER CONTROL_FD LIFELINE_FD`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import shutil
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import CheckpointError, ExportError, HpoError, TrialError
from hpo.trainer import OnnxExporter, PinnedModelTrainer, load_trainer
from workers.training_process.messages import (
    Answer,
    Done,
    Evaluate,
    ExportOnnx,
    Failed,
    Pack,
    Prepare,
    Ready,
    Reported,
    Train,
)

if TYPE_CHECKING:
    from hpo.trainer import Directive, Epoch, Trainer
    from workers.training_process.messages import Request

PARENT_CHECK_S = 1.0


def main(arguments: list[str]) -> None:
    """Serve until the worker closes the control connection."""
    name, control, lifeline = arguments
    # Ctrl-C is the worker's to handle: it stops a training at an epoch's end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()  # a segfault leaves its Python stack in the log
    _be_the_first_to_go()
    guard = (int(lifeline), os.getppid())
    threading.Thread(target=_die_with_parent, args=guard, daemon=True).start()
    serve(Connection(int(control)), name)


def serve(connection: Connection[Any, Any], name: str) -> None:
    """Load the trainer, then answer each request until the connection's end."""
    trainer, fault = _load(name)
    connection.send(Ready())
    while True:
        try:
            request = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        reply = fault or _answer(trainer, request, connection)
        connection.send(reply)
        if isinstance(reply, Failed) and reply.retire:
            return


def _load(name: str) -> tuple[Any, Failed | None]:
    # A failure is kept for the first request: nobody listens yet
    try:
        trainer = load_trainer(name)
        trainer.warm()
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
        return None, _failure(error)
    # What was imported stays: leaving it out makes each later collection quick (0.2 s less a trial)
    gc.collect()
    gc.freeze()
    return trainer, None


def _answer(trainer: Trainer, request: Request, connection: Connection[Any, Any]) -> Done | Failed:
    what = request.model if isinstance(request, Prepare) else f"trial {request.job.trial}"
    print(f"--- {what}: {type(request).__name__}", flush=True)
    try:
        return Done(_value(trainer, request, connection))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise  # the worker is gone: so are we
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a trial's failure, never the process's
        failed = _failure(error)
        known = (TrialError, CheckpointError)  # the second is no failure: nothing was trained yet
        if isinstance(request, Train) and not isinstance(failed.error, known):
            # A training fails in one way only; what the trainer met keeps its words
            hint = failed.error.hint
            return Failed(TrialError("error", str(failed.error), hint=hint), failed.retire)
        return failed


def _value(trainer: Trainer, request: Request, connection: Connection[Any, Any]) -> Any:
    """What the trainer makes of a request."""

    def report(epoch: Epoch) -> Directive:
        connection.send(Reported(epoch))
        answer = connection.recv()
        if not isinstance(answer, Answer):
            raise TypeError(f"expected an answer to epoch {epoch.number}, got {answer!r}")
        return answer.directive

    match request:
        case Train():
            return trainer.train(request.job, report)
        case Evaluate():
            return trainer.evaluate(request.weights, request.job, request.split)
        case Pack():
            return trainer.package(request.weights, request.job)
        case ExportOnnx():
            return _exporter(trainer).export_onnx(request.weights, request.job)
        case Prepare() if isinstance(trainer, PinnedModelTrainer):
            return trainer.prepare(request.model)
        case _:
            raise TypeError(f"the trainer cannot answer {request!r}")


def _exporter(trainer: Trainer) -> OnnxExporter:
    if not isinstance(trainer, OnnxExporter):
        raise ExportError(
            f"the trainer {trainer.describe().name} has no ONNX export",
            hint="Leave `onnx: true` out of the study's `promotion`.",
        )
    return trainer


def _failure(error: BaseException) -> Failed:
    traceback.print_exception(error)
    if isinstance(error, HpoError):  # foreseen by the trainer, which knows what state it is in
        return Failed(error, retire=False)
    text = f"{type(error).__name__}: {error}"
    # By name and text: torch is not imported here, and loader processes report by text only
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text.lower()
        or "killed by signal: Killed" in text
    ):
        return Failed(TrialError("out_of_memory", text), retire=True)
    return Failed(TrialError("error", text), retire=True)


def _be_the_first_to_go() -> None:
    """Where memory runs out, let the kernel end this process and not the worker."""
    # Linux only; elsewhere there is no such file and nothing to set
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _die_with_parent(lifeline: int, parent: int) -> None:
    """Kill this whole process group, data-loader processes included, when the worker is gone.

    The worker holds the other end of the lifeline and never writes: the pipe's end is the
    worker's. A process that the worker forked may hold that end too, so the parent's id is
    looked at as well. The kernel's parent-death signal is not used: it fires when the *thread*
    that started this process ends.
    """
    while os.getppid() == parent:
        if select.select([lifeline], [], [], PARENT_CHECK_S)[0]:
            break
    # The worker would have removed it
    shutil.rmtree(os.environ.get("HPO_SCRATCH", ""), ignore_errors=True)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
