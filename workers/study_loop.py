"""The loop of a worker over one study's trials: claims one after the other and runs it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hpo.claims.checkpoints import clear_ended
from hpo.claims.claims import Claim, Claims, End, NoTrial, note_worker_left, register_worker
from hpo.errors import HpoError, RepeatedFailureError
from hpo.host.environment import this_machine
from hpo.host.log import action_logger
from hpo.storage.artifacts.opening import open_store
from hpo.tracking.mirror_thread import FLUSH_S, MirrorThread
from workers.context import StudyContext, WorkerContext
from workers.events import Event, Kind
from workers.final_runner import FinalRunner
from workers.trial_runner import Ended, LostError, TrialRunner

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from hpo.storage.postgres.engine import Database
    from hpo.studies.store import Study
    from workers.events import Watch

log = action_logger(__name__)

# In a row, before the worker keeps the budget and stops. Of the reason `error` only: a dataset that
# is gone fails every trial, while a loss that diverges or full memory is the trial's own affair.
SAME_FAILURES = 3
_LONGEST_WAIT_S = 0.8  # between two looks for something to take over
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
class WorkerSummary:
    """What a worker did.

    Attributes:
        ended: trials it ended, by how.
        why: why it left: `limit`, `timeout`, `all claimed`, `finished`, `stopped`, `deleted`,
            `drained`, `failing` (the same error again and again) or `crashed`.
        notes: what came of the finals and of the promotion, where this worker was at them.
    """

    ended: dict[End, int] = field(default_factory=dict)
    why: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Trials ended."""
        return sum(self.ended.values())


class StudyLoop:
    """Claims and runs the trials of one study until a limit or the study's end.

    `run` is called once, inside the loop's `with` block.
    """

    def __init__(
        self, context: WorkerContext, study: Study, limits: Limits, *, test_fingerprint: str = ""
    ) -> None:
        """Remember what to do.

        Args:
            context: what is the same for all studies of the worker.
            study: the study, or its finals.
            limits: when to leave.
            test_fingerprint: of the test split as it is here, for finals.
        """
        self._context, self._study, self._limits = context, study, limits
        self._test_fingerprint = test_fingerprint
        self._failures: list[str] = []
        self._ended_before = 0  # by earlier workers of the slot

    def __enter__(self) -> Self:
        context = self._context
        self._mirror = MirrorThread(context.settings, self._study, database=context.database)
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        """Close the mirror; whoever asked the worker to leave does not wait for MLflow."""
        flush_s = 0.0 if kind is KeyboardInterrupt else FLUSH_S
        shutdown = self._context.shutdown
        self._mirror.close(
            min(flush_s, _FLUSH_S, max(1.0, shutdown.left_s)) if shutdown.requested else flush_s
        )

    def run(self) -> WorkerSummary:
        """Claim and run trials; the mirror goes on until the loop's block is left.

        Raises:
            RepeatedFailureError: the trials fail with the same error again and again.
            HpoError: a service stayed away.
        """
        context, study = self._context, self._study
        slot = context.slot if study.parent_id is None else None  # finals count in nobody's limit
        worker_id, self._ended_before = register_worker(
            context.database,
            study,
            host=context.host,
            pid=os.getpid(),
            device=context.device,
            slot=slot,
            environment=this_machine(context.device, study.code_version),
        )
        summary = WorkerSummary(why="crashed")
        try:
            study_context = self._study_context(worker_id)
            self._loop(study_context, summary, self._mirror.wake)
            if summary.why == "finished":
                _clear_ended(study_context)
        except RepeatedFailureError:
            summary.why = "failing"
            raise
        finally:
            _left(context.database, study.name, worker_id, summary.why)
        return summary

    def _study_context(self, worker_id: int) -> StudyContext:
        context, settings = self._context, self._context.settings
        claims = Claims(context.database, self._study, worker_id, lease_s=settings.lease_s)
        return StudyContext(
            worker=context,
            study=self._study,
            claims=claims,
            store=open_store(settings),
            test_fingerprint=self._test_fingerprint,
        )

    def _loop(
        self, study_context: StudyContext, summary: WorkerSummary, wake: Callable[[], None]
    ) -> None:
        waiting, shutdown = False, self._context.shutdown
        watch = self._watched(wake)
        while not (why := self._enough(summary)):
            claim = study_context.claims.claim()
            if isinstance(claim, Claim):
                waiting = False
                self._count(self._one(study_context, claim, watch), summary)
            elif claim is not NoTrial.WAIT:
                why = claim.value
                break
            elif not self._limits.wait:
                why = "all claimed"
                break
            else:
                if not waiting:
                    watch(Event(kind=Kind.WAITING, text="all trials are claimed, some still run"))
                waiting = True
                shutdown.event.wait(min(self._context.settings.lease_s / 4, _LONGEST_WAIT_S))
        summary.why = why

    def _one(self, study_context: StudyContext, claim: Claim, watch: Watch) -> Ended:
        kind = TrialRunner if self._study.parent_id is None else FinalRunner
        try:
            run = kind(study_context, claim, watch)
        except LostError:
            return Ended(None, lost=True)
        return run.run()

    def _watched(self, wake: Callable[[], None]) -> Watch:
        def watch(event: Event) -> None:
            wake()
            final = self._study.parent_id is not None
            self._context.watch(replace(event, what="final") if final else event)

        return watch

    def _enough(self, summary: WorkerSummary) -> str:
        limits = self._limits
        if self._context.shutdown.requested:
            return "drained"
        count = self._ended_before + summary.count
        if limits.n_trials is not None and count >= limits.n_trials:
            return "limit"
        spent_s = time.monotonic() - self._context.started
        if limits.timeout_s is not None and spent_s >= limits.timeout_s:
            return "timeout"
        return ""

    def _count(self, ended: Ended, summary: WorkerSummary) -> None:
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


def first_line(text: str) -> str:
    """What makes two errors the same: later lines are a log's tail, with addresses that change."""
    return text.partition("\n")[0]


def _clear_ended(study_context: StudyContext) -> None:
    try:
        clear_ended(study_context.claims, study_context.store)
    except HpoError as error:  # the trials are told: nothing depends on it
        own = log.bind(**study_context.claims.ids)
        own.warning(
            "checkpoints of ended trials stay for now: %s", error, action="checkpoints_not_removed"
        )


def _left(database: Database, study: str, worker_id: int, why: str) -> None:
    try:
        note_worker_left(database, worker_id, why)
    except Exception:  # the row is for people; leaving must not fail for it
        log.warning(
            "could not note that this worker left",
            exc_info=True,
            action="leaving_not_recorded",
            study=study,
            worker=worker_id,
        )
