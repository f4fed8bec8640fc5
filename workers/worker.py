"""A worker: run a study's trials, then with all others its finals, then promote the best."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from hpo.errors import HpoError, RepeatedFailureError, UsageError
from hpo.host.log import action_logger
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import Database, retry_while_unavailable, storage_url
from hpo.studies.finals import parent_of
from hpo.studies.model_file import model_here
from hpo.studies.preflight import require_matching_environment, require_test_split
from hpo.studies.store import load_study
from workers.context import WorkerContext
from workers.device import choose_device
from workers.events import Event, Kind, Watch, nobody
from workers.shutdown import GRACE_S, Shutdown
from workers.study_loop import Limits, StudyLoop, WorkerSummary
from workers.training_process.client import TrainingProcess
from workers.workspace import own_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.settings import Settings
    from hpo.studies.store import Study

log = action_logger(__name__)
T = TypeVar("T")

STALL_TIMEOUT_S = 7200.0  # an epoch that takes longer must be announced


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
        promote: bool = True,
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
            promote: whether to decide about the best trial when all is over.
        """
        self._settings, self._name, self._slot = settings, study, slot
        self._limits = limits or Limits()
        self._device = choose_device(device)
        self._watch = watch
        self._stall_timeout_s = stall_timeout_s
        self._shutdown, self._promote = Shutdown(grace_s), promote
        self._started = time.monotonic()

    def drain(self, within_s: float = math.inf) -> None:
        """Leave at the end of the present epoch, or when the grace or `within_s` is over.

        The trial is given back: another worker goes on from its checkpoint at once.
        """
        self._shutdown.request(within_s)

    def run(self) -> WorkerSummary:
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
        database, study = self._opened()
        with database:
            data = require_matching_environment(study, settings, database.engine, say=self._tell)
            store = open_store(settings)
            store.require_writable(make=False)
            with (
                own_folder(settings.home / "runs") as runs,
                TrainingProcess(
                    study.spec.trainer, settings.home / "logs", scratch=runs
                ) as process,
            ):
                process.warm()
                model = model_here(study, store, runs / "start")
                context = WorkerContext(
                    settings=settings,
                    database=database,
                    process=process,
                    runs=runs,
                    data=data,
                    model=model,
                    device=self._device,
                    shutdown=self._shutdown,
                    watch=self._watch,
                    stall_timeout_s=self._stall_timeout_s,
                    slot=self._slot,
                    started=self._started,
                )
                return self._serve(context, study)

    def _opened(self) -> tuple[Database, Study]:
        """The database and the study; a database that is away just now is waited for."""
        settings = self._settings

        def attempt() -> tuple[Database, Study]:
            database = Database.open(settings, stop=self._shutdown.event)
            try:
                schema.check(database.engine)
                return database, load_study(database.engine, self._name)
            except BaseException:
                database.dispose()
                raise

        return self._persistently(attempt)

    def _persistently(self, attempt: Callable[[], T]) -> T:
        """Try again while the database is away, as long as the patience lasts."""
        settings = self._settings
        return retry_while_unavailable(
            attempt, storage_url(settings),
            patience_s=settings.db_patience_s, stop=self._shutdown.event,
        )  # fmt: skip

    def _serve(self, context: WorkerContext, study: Study) -> WorkerSummary:
        if study.parent_id is not None:
            return self._serve_finals(context, study)
        # Its mirror goes on during the finals
        with StudyLoop(context, study, self._limits) as loop:
            summary = loop.run()
            if summary.why in ("finished", "limit") and self._promote:
                self._conclude(context, study, summary)
        return summary

    def _conclude(self, context: WorkerContext, study: Study, summary: WorkerSummary) -> None:
        """Run the finals, then promote, where the study is over."""
        try:
            # At its limit it may have ended the last trial of all: nobody else is left to promote
            over, finals = self._persistently(lambda: _called(context, study))
            if over and (finals is None or self._are_over(context, study, finals, summary)):
                self._finalize(context, study, summary)
        except RepeatedFailureError:
            raise
        except HpoError as error:
            # The trials are told and safe; promoting can be done again by hand.
            self._note(summary, _not_promoted(error, study))

    def _serve_finals(self, context: WorkerContext, finals: Study) -> WorkerSummary:
        """Run the finals as a worker of `NAME/finals` alone, then promote."""
        parent = parent_of(context.database.engine, finals)
        _, fingerprint = require_test_split(parent, context.settings, context.database.engine)
        with StudyLoop(context, finals, self._limits, test_fingerprint=fingerprint) as loop:
            summary = loop.run()
            if summary.why == "finished" and self._promote:
                try:
                    self._finalize(context, parent, summary)
                except HpoError as error:
                    self._note(summary, _not_promoted(error, parent))
        return summary

    def _are_over(
        self, context: WorkerContext, study: Study, finals: Study, summary: WorkerSummary
    ) -> bool:
        """Run finals with whoever else is at them; whether they are over."""
        self._watch(
            Event(kind=Kind.NOTE, text="the study is finished; looking again at its best trials")
        )
        _, fingerprint = require_test_split(study, context.settings, context.database.engine)
        limits = replace(self._limits, n_trials=None)
        with StudyLoop(context, finals, limits, test_fingerprint=fingerprint) as loop:
            inner = loop.run()
        if inner.why == "finished":
            return True
        if inner.why == "drained":
            summary.why = inner.why
        self._note(summary, f"the finals are not over ({inner.why}): nothing is promoted yet")
        return False

    def _finalize(self, context: WorkerContext, study: Study, summary: WorkerSummary) -> None:
        """Decide about the best trial; what came of it, in a sentence."""
        from hpo.promotion.finalizer import finalize

        decision = finalize(
            context.database, context.settings, study, context.process, device=context.device
        )
        self._note(summary, decision.sentence())

    def _note(self, summary: WorkerSummary, text: str) -> None:
        summary.notes.append(text)
        self._tell(text)

    def _tell(self, text: str) -> None:
        self._watch(Event(kind=Kind.NOTE, text=text))


def _called(context: WorkerContext, study: Study) -> tuple[bool, Study | None]:
    """(whether the study is over, its finals: None when there is nothing to look at again)."""
    from hpo.promotion.candidates import call_finals, study_completion

    with context.database.connect() as connection:
        completion = study_completion(connection, study)
    if completion is None or completion.open_because:
        return False, None
    return True, call_finals(context.database.engine, study)


def _not_promoted(error: HpoError, study: Study) -> str:
    hint = f" {error.hint}" if error.hint else ""
    said = f"not promoted: {error}.{hint} Then: hpo finalize --study {study.name}"
    log.warning("%s", said, action="promotion_failed", study=study.name)
    return said
