"""Keep MLflow and optuna-dashboard up to date from a thread while a worker trains.

Whoever wakes it returns at once and never sees an error of it: MLflow can neither fail nor slow a
trial. What it could not copy stays pending in PostgreSQL, for its next attempt, another worker's
thread or `hpo mirror sync`.
"""

from __future__ import annotations

import math
import random
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.errors import HpoError, StoreError
from hpo.host.log import action_logger
from hpo.storage.postgres.engine import Database
from hpo.tracking.dashboard import show_pending
from hpo.tracking.mirror import HICCUPS, Mirror, open_mirror
from hpo.tracking.sync_state import SyncState

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from hpo.settings import Settings
    from hpo.studies.store import Study

log = action_logger(__name__)

POLL_S = 5.0  # between two looks for what others left behind; longer while there is nothing
FIRST_WAIT_S = 1.0  # after a failure
LONGEST_WAIT_S = 60.0
FLUSH_S = 30.0
REMIND_S = 600.0  # before the same trouble is told again
COUNT_S = 2.0  # of a flush that failed, to find out how far MLflow is behind
STARVED = 18  # passes without a connection, some minutes, before that is trouble
_BUSY_WAIT_S = 0.5
_TRIES = 2  # of a flush, before it leaves the rest to `hpo mirror sync`


class MirrorThread:
    """A study's mirror in a daemon thread; a context manager that flushes at its end.

    Args:
        settings: where PostgreSQL, MLflow and the files are.
        study: the study, or Optuna's id of it.
        database: whose connections the thread borrows, one at a time; None for one of its own.
    """

    def __init__(
        self, settings: Settings, study: Study | int, *, database: Database | None = None
    ) -> None:
        self._settings, self._database = settings, database
        self._study_id = study if isinstance(study, int) else study.study_id
        self._study_name = None if isinstance(study, int) else study.name
        self._logger = log.bind(study=self._study_name)
        self._mirror: Mirror | None = None
        self._changed = threading.Condition()
        self._woken, self._closing = True, False
        self._own: set[int] = set()
        self._asked = self._answered = 0  # flushes
        self._failures = 0  # in a row
        self._busy = False  # whether another mirror was at something in the last pass
        self._starved = 0  # passes in a row for which no connection was free
        self._hiccups = 0  # passes in a row with something that may pass
        self._told: dict[str, float] = {}  # trouble -> when it was logged (monotonic)
        self._outage_told = False
        self._clean = False  # whether the last pass left nothing behind
        self._idle = 0  # passes in a row that nobody asked for and that left nothing behind
        self._thread = threading.Thread(target=self._run, name="hpo-mirror", daemon=True)
        self._thread.start()

    def wake(self, trial_id: int | None = None) -> None:
        """Tell the thread that there is something to copy, `trial_id` first; returns at once."""
        with self._changed:
            self._woken = True
            if trial_id is not None:
                self._own.add(trial_id)
            self._changed.notify_all()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything known now is copied.

        Returns:
            False when the time was up or MLflow could not be reached.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._answered >= mine or not self._thread.is_alive(), timeout_s
            )
            return self._answered >= mine and self._clean

    def close(self, timeout_s: float = FLUSH_S) -> bool:
        """Flush and end the thread; returns what `flush` does. Takes no longer than `timeout_s`."""
        until = time.monotonic() + timeout_s
        clean = self.flush(timeout_s - min(COUNT_S, timeout_s / 2))
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if not clean and timeout_s > 0:  # at 0 nobody looked whether it is behind
            self._logger.warning(
                "%s", self._farewell(until - time.monotonic()), action="mirror_left_behind"
            )
        # A thread that hangs in a request is left behind: it is a daemon.
        self._thread.join(max(0.0, until - time.monotonic()))
        return clean

    def _farewell(self, timeout_s: float) -> str:
        """How far MLflow is behind, and what catches up."""
        found: list[int] = []

        def count() -> None:
            # Not the mirror's own connection: that may be in use by a thread that hangs.
            try:
                database = self._database or Database.open(self._settings, pool_size=1)
                try:
                    found.append(SyncState(database, self._study_id).pending().count)
                finally:
                    if database is not self._database:
                        database.dispose()
            except (DBAPIError, PoolTimeoutError, HpoError) as error:
                self._logger.debug(
                    "PostgreSQL does not say how far MLflow is behind: %s",
                    error,
                    action="pending_not_counted",
                )

        counting = threading.Thread(target=count, name="hpo-mirror-count", daemon=True)
        counting.start()
        counting.join(max(0.0, timeout_s))
        runs = "some runs" if not found else "1 run" if found[0] == 1 else f"{found[0]} runs"
        study = f" --study {self._study_name}" if self._study_name else ""
        return f"MLflow is {runs} behind; `hpo mirror sync{study}` catches up"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, self._pause_s())
                if self._closing:
                    break
                asked, own = self._asked, list(self._own)
                wanted, self._woken = self._woken or asked > self._answered, False
                self._own.clear()
            self._pass(own)
            self._idle = 0 if wanted or not self._clean else self._idle + 1
            with self._changed:
                if self._failures >= _TRIES or not (self._failures or self._is_waited_for()):
                    self._answered = asked
                self._changed.notify_all()
        if self._mirror is not None:
            self._mirror.close()

    def _is_waited_for(self) -> bool:
        """Whether a flush goes on: another mirror is at something, or something may pass soon."""
        return self._busy and self._hiccups < HICCUPS

    def _is_due(self) -> bool:
        # After a failure, or where another mirror is at it, the pause is waited out.
        wanted = self._woken or self._asked > self._answered
        return self._closing or (wanted and not self._failures and not self._busy)

    def _pause_s(self) -> float:
        flushing = self._asked > self._answered
        if self._failures:
            back_off = FIRST_WAIT_S * 2 ** min(self._failures - 1, 6)
            return FIRST_WAIT_S if flushing else min(back_off, LONGEST_WAIT_S)
        if self._busy and flushing:
            return _BUSY_WAIT_S
        # A look costs PostgreSQL more the more trials there are, and a thousand workers look
        poll_s = min(POLL_S * 2.0 ** min(self._idle, 6), LONGEST_WAIT_S)
        return poll_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads workers, hides nothing

    def _show(self, mirror: Mirror) -> None:
        """Pictures and notes for optuna-dashboard; without the store they wait."""
        try:
            show_pending(mirror, self._settings)
        except (OSError, StoreError) as error:
            self._tell(
                "dashboard_delayed", "optuna-dashboard waits for pictures: %s", mirror.note(error)
            )

    def _pass(self, own: list[int]) -> None:
        """Copy what is pending once."""
        self._clean = False
        try:
            if self._mirror is None:
                self._mirror = open_mirror(self._settings, self._study_id, database=self._database)
            if self._failures:
                self._mirror.recover()
            result = self._mirror.sync_pending(own)
            self._show(self._mirror)
        except PoolTimeoutError as error:
            self._starve(error)
            return
        except Exception as error:  # noqa: BLE001 - nothing of the mirror may reach a trial
            self._fail(error)
            return
        if self._outage_told:
            self._logger.warning("the mirror works again", action="mirror_recovered")
        self._failures, self._outage_told, self._starved = 0, False, 0
        for text in sorted(set(result.errors)):
            self._tell("trial_copy_failed", "MLflow lacks a trial: %s", text)
        for text in self._mirror.hiccups:
            self._logger.debug(
                "a trial is not in MLflow for now: %s", text, action="trial_copy_delayed"
            )
        self._hiccups = self._hiccups + 1 if self._mirror.hiccups else 0
        self._clean = result.behind == 0
        self._busy = result.behind > len(result.errors)

    def _starve(self, error: PoolTimeoutError) -> None:
        """Put a copy off because no connection is free, and tell when that lasts."""
        self._starved += 1
        if self._starved >= STARVED:
            self._fail(error)
            return
        self._logger.debug(
            "the mirror waits for a connection: %s", error, action="connection_waited_for"
        )
        self._busy = True

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        text = str(error) if self._mirror is None else self._mirror.note(error)
        told = self._tell(
            "mirror_failed", "nothing reaches MLflow for now, training goes on: %s", text
        )
        self._outage_told = self._outage_told or told
        if self._mirror is None:
            return
        try:
            self._mirror.sync_state.study_failed(text)
        except (DBAPIError, PoolTimeoutError) as trouble:
            self._logger.debug(
                "the reason is not stored: %s",
                self._mirror.note(trouble),
                action="reason_not_stored",
            )

    def _tell(self, action: str, words: str, text: str) -> bool:
        """Log trouble, but for what was logged not long ago; whether it was."""
        now = time.monotonic()
        if now - self._told.get(text, -math.inf) < REMIND_S:
            self._logger.debug(words, text, action=action)
            return False
        self._told[text] = now
        self._logger.warning(words, text, action=action)
        return True
