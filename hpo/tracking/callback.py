"""MirrorCallback: wake the mirror after each trial of a plain `study.optimize`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hpo.settings import Settings
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import connect
from hpo.tracking.mirror_thread import FLUSH_S, MirrorThread

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from optuna import Study
    from optuna.trial import FrozenTrial


class MirrorCallback:
    """Mirrors a study into MLflow, from a worker or from a plain `study.optimize`.

    One object serves any number of studies of one database, and any threads. Use it as a context
    manager, or call `close` at the end: what is not copied by then stays for `hpo mirror sync`.

        with MirrorCallback() as mirror:
            study.optimize(objective, n_trials=20, callbacks=[mirror])

    Args:
        settings: where PostgreSQL, MLflow and the files are; by default, what the environment says.

    Raises:
        DatabaseError: PostgreSQL cannot be reached.
        SchemaError: the database is of a newer version.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings.read()
        self._threads: dict[int, MirrorThread] = {}
        self._lock = threading.Lock()
        engine = connect(self._settings)
        try:
            schema.upgrade(engine)  # a database that only Optuna used has no tables of ours
        finally:
            engine.dispose()

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Wake the mirror; returns at once and never raises for MLflow."""
        study_id = study._study_id  # noqa: SLF001 - Optuna has no public name for its ids
        with self._lock:
            thread = self._threads.get(study_id)
            if thread is None:
                thread = self._threads[study_id] = MirrorThread(self._settings, study_id)
        thread.wake(trial._trial_id)  # noqa: SLF001 - as above

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything known now is copied; False when that took too long."""
        with self._lock:
            threads = list(self._threads.values())
        return False not in [thread.flush(timeout_s) for thread in threads]

    def close(self, timeout_s: float = FLUSH_S) -> bool:
        """Flush and end; returns what `flush` does."""
        with self._lock:
            threads = list(self._threads.values())
            self._threads.clear()
        return False not in [thread.close(timeout_s) for thread in threads]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
