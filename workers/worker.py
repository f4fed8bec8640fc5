"""A worker: claims trials of one study and runs them, until its limit or the study's end."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpo.artifacts.opening import open_store
from hpo.checkpoints import clear_ended
from hpo.claims import Claim, Claims, End, NoTrial
from hpo.database import schema
from hpo.database.engine import connect, patient, persist, storage_url
from hpo.database.queries import query
from hpo.errors import HpoError, RepeatedFailureError, UsageError
from hpo.readiness import require_same
from hpo.study import load_study
from workers.device import choose_device
from workers.drain import GRACE_S, Drain
from workers.events import Event, Kind, Watch, nobody
from workers.process import TrainingProcess
from workers.run_folders import own_folder
from workers.trial_run import Bench, Ended, TrialRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from hpo.settings import Settings
    from hpo.study import Study

log = logging.getLogger(__name__)

# In a row, before the worker keeps the budget and stops. Of the reason `error` only: a dataset that
# is gone fails every trial, while a loss that diverges or full memory is the trial's own affair.
SAME_FAILURES = 3
_LONGEST_WAIT_S = 0.8  # between two looks for something to take over
STALL_TIMEOUT_S = 7200.0  # an epoch that takes longer must be announced
_FLUSH_S = 5.0  # for MLflow, when the worker was asked to leave: what lacks is copied later


@dataclass(frozen=True)
class Limits:
    """When a worker leaves.

    Attributes:
        n_trials: trials that this worker ended; None for no limit.
        timeout_s: seconds since its start after which it claims no more; None for no limit.
        wait: whether to wait, with everything claimed, for a takeover or the end.
    """

    n_trials: int | None = None
    timeout_s: float | None = None
    wait: bool = True


@dataclass
class Summary:
    """What a worker did.

    Attributes:
        ended: trials it ended, by how.
        why: why it left: `limit`, `timeout`, `all claimed`, `finished`, `stopped`, `deleted`,
            `drained`, `failing` (the same error again and again) or `crashed`.
        notes: what the finalizer said, where this worker called it.
    """

    ended: dict[End, int] = field(default_factory=dict)
    why: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Trials ended."""
        return sum(self.ended.values())


class Worker:
    """One worker of a study. `run` is called once; `drain` may come from any thread."""

    def __init__(
        self,
        settings: Settings,
        study: str,
        *,
        limits: Limits | None = None,
        device: str = "auto",
        watch: Watch = nobody,
        stall_timeout_s: float | None = STALL_TIMEOUT_S,
        slot: str | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        """Remember what to do; opens nothing.

        Args:
            settings: of this machine.
            study: its name.
            limits: when to leave.
            device: auto, cpu, cuda or cuda:N.
            watch: is told what happens.
            stall_timeout_s: longest silence of a training; None for no limit.
            slot: a name that outlives this process; trials that earlier workers of the slot
                ended count towards `limits.n_trials`.
            grace_s: seconds that the present epoch may take after `drain`.
        """
        self._settings, self._name, self._slot = settings, study, slot
        self._limits = limits or Limits()
        self._device = choose_device(device)
        self._watch = watch
        self._stall_timeout_s = stall_timeout_s
        self._drain = Drain(grace_s)
        self._started = time.monotonic()
        self._failures: list[str] = []
        self._ended_before = 0  # by earlier workers of the slot

    def drain(self, within_s: float = math.inf) -> None:
        """Leave at the end of the present epoch, or when the grace or `within_s` is over.

        The trial is given back: another worker goes on from its checkpoint at once.
        """
        self._drain.ask(within_s)

    def run(self) -> Summary:
        """Claim and run trials.

        Raises:
            HpoError: this machine cannot run the study, a service stayed away, or the trials fail
                with the same error again and again.
        """
        settings = self._settings
        if not settings.home.is_dir():
            raise UsageError(
                f"there is no folder {settings.home}",
                hint="A worker keeps its runs there, and the artifacts unless HPO_ARTIFACTS names "
                "a folder: set HPO_HOME, or start the worker in the project's folder.",
            )
        engine, study = self._opened()
        try:
            data = require_same(study, settings)
            open_store(settings).require_writable(make=False)
            with (
                own_folder(settings.home / "runs") as runs,
                TrainingProcess(
                    study.spec.trainer, settings.home / "logs", scratch=runs
                ) as process,
            ):
                process.warm()
                return self._serve(engine, study, process, runs, data)
        finally:
            engine.dispose()

    def _opened(self) -> tuple[Engine, Study]:
        """The database and the study; a database that is away just now is waited for."""
        settings = self._settings

        def attempt() -> tuple[Engine, Study]:
            # This thread, the lease keeper, the checkpoints' uploader, a spare
            engine = connect(settings, pool_size=4)
            try:
                schema.check(engine)
                return engine, load_study(engine, self._name)
            except BaseException:
                engine.dispose()
                raise

        return persist(
            attempt, storage_url(settings),
            patience_s=settings.db_patience_s, stop=self._drain.event,
        )  # fmt: skip

    def _serve(
        self,
        engine: Engine,
        study: Study,
        process: TrainingProcess,
        runs: Path,
        data: Path | None,
    ) -> Summary:
        from hpo.tracking.mirror_thread import FLUSH_S, MirrorThread

        host = socket.gethostname()
        row = {"study_id": study.study_id, "host": host, "pid": os.getpid(), "device": self._device}
        # Repeated after a lost acknowledgement it makes a second row, which nobody is
        worker_id, self._ended_before = patient(
            engine, lambda connection: _register(connection, row, self._slot),
            patience_s=self._settings.db_patience_s, stop=self._drain.event,
        )  # fmt: skip
        claims = Claims(
            engine, study, worker_id, lease_s=self._settings.lease_s,
            patience_s=self._settings.db_patience_s, stop=self._drain.event,
        )  # fmt: skip
        bench = Bench(
            study, claims, process, open_store(self._settings), runs,
            data, self._device, host, self._stall_timeout_s, self._settings.checkpoint_every,
        )  # fmt: skip
        summary = Summary(why="crashed")
        mirror, flush_s = MirrorThread(self._settings, study), FLUSH_S
        try:
            try:
                self._loop(bench, summary, mirror.wake)
            except RepeatedFailureError:
                summary.why = "failing"
                raise
            except KeyboardInterrupt:
                flush_s = 0.0  # leave now
                raise
            if summary.why == "finished":
                _clear_ended(bench)
                summary.notes.append(self._finalize(engine, study, process))
        finally:
            _left(engine, worker_id, summary.why)
            # Whoever asked it to leave does not wait for MLflow
            left_s = max(1.0, self._drain.left_s)
            mirror.close(min(flush_s, _FLUSH_S, left_s) if self._drain.asked else flush_s)
        return summary

    def _loop(self, bench: Bench, summary: Summary, wake: Callable[[], None]) -> None:
        waiting = False
        while not (why := self._enough(summary)):
            claim = bench.claims.claim()
            if isinstance(claim, Claim):
                waiting = False
                run = TrialRun(bench, claim, self._drain, self._watched(wake))
                self._count(run.run(), summary)
            elif claim is not NoTrial.WAIT:
                why = claim.value
                break
            elif not self._limits.wait:
                why = "all claimed"
                break
            else:
                if not waiting:
                    self._watch(Event(Kind.WAITING, text="all trials are claimed, some still run"))
                waiting = True
                self._drain.event.wait(min(self._settings.lease_s / 4, _LONGEST_WAIT_S))
        summary.why = why

    def _watched(self, wake: Callable[[], None]) -> Watch:
        def watch(event: Event) -> None:
            wake()
            self._watch(event)

        return watch

    def _enough(self, summary: Summary) -> str:
        limits = self._limits
        if self._drain.asked:
            return "drained"
        count = self._ended_before + summary.count
        if limits.n_trials is not None and count >= limits.n_trials:
            return "limit"
        if limits.timeout_s is not None and time.monotonic() - self._started >= limits.timeout_s:
            return "timeout"
        return ""

    def _count(self, ended: Ended, summary: Summary) -> None:
        if ended.end is None:
            return
        summary.ended[ended.end] = summary.ended.get(ended.end, 0) + 1
        if ended.end is not End.FAIL or not ended.error.startswith("error: "):
            self._failures.clear()
            return
        if self._failures and first_line(self._failures[-1]) != first_line(ended.error):
            self._failures.clear()
        self._failures.append(ended.error)
        if len(self._failures) >= SAME_FAILURES:
            raise RepeatedFailureError(
                f"{SAME_FAILURES} trials in a row failed with the same error: {ended.error}",
                hint="Mend the cause, then start workers again; the rest of the budget is kept.",
            )

    def _finalize(self, engine: Engine, study: Study, process: TrainingProcess) -> str:
        """Promote the best trial; what came of it, in a sentence."""
        from hpo.promotion.finalizer import finalize

        self._watch(Event(Kind.NOTE, text="the study is finished; looking at the best trial"))
        try:
            said = finalize(engine, self._settings, study, process, device=self._device).sentence()
        except HpoError as error:
            # The trials are told and safe; promoting can be done again by hand.
            said = f"not promoted: {error}. Mend it, then: hpo finalize --study {study.name}"
            log.warning("%s", said)
        self._watch(Event(Kind.NOTE, text=said))
        return said


def first_line(text: str) -> str:
    """What makes two errors the same: later lines are a log's tail, with addresses that change."""
    return text.partition("\n")[0]


def _register(connection: Connection, row: dict[str, Any], slot: str | None) -> tuple[int, int]:
    """(the new worker's id, trials that earlier workers of the slot ended)."""
    before = int(connection.execute(query("ended_in_slot"), {"slot": slot}).scalar_one())
    worker_id = connection.execute(query("register_worker"), row | {"slot": slot}).scalar_one()
    return int(worker_id), before


def _clear_ended(bench: Bench) -> None:
    try:
        clear_ended(bench.claims, bench.store)
    except HpoError as error:  # the trials are told: nothing depends on it
        log.warning("checkpoints of ended trials stay for now: %s", error)


def _left(engine: Engine, worker_id: int, why: str) -> None:
    try:
        with engine.begin() as connection:
            connection.execute(query("worker_left"), {"worker_id": worker_id, "why": why})
    except Exception:  # the row is for people; leaving must not fail for it
        log.warning("could not note that this worker left", exc_info=True)
