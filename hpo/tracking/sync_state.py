"""Record how far MLflow holds a study: the rows of `hpo.mirror`.

A trial's row is its lock: who holds it writes the trial's run, and nobody else does.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from hpo.storage.postgres.queries import Queries
from hpo.studies.status import mirror_lag
from hpo.tracking.projection import TrialProjection, study_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Row

    from hpo.storage.postgres.engine import Database
    from hpo.tracking.projection import StudyRow

SQL = Queries(__name__)

SLOT_S = 0.2  # between two looks for a place to write MLflow from


@dataclass(frozen=True)
class Pending:
    """What MLflow lacks.

    Attributes:
        trials: ids of the trials that are not there as they are here, by number.
        study_state: `open`, `finished` or `stopped`; "" when the study does not exist.
        study: whether the study's own run is not there as it is here.
    """

    trials: list[int]
    study_state: str
    study: bool

    @property
    def count(self) -> int:
        """Runs behind."""
        return len(self.trials) + int(self.study)


class SyncState:
    """The marks of one study. Each call is a transaction of its own, but for the locks.

    A lock's transaction lasts as long as MLflow takes. Few are open at once: one of a `Database`,
    and a fixed number on the server (`mirror_slot`).

    Args:
        database: the studies' database.
        study_id: Optuna's id.
    """

    def __init__(self, database: Database, study_id: int) -> None:
        self.database, self.study_id = database, study_id

    def pending(self) -> Pending:
        """What MLflow lacks."""
        with self.database.connect() as connection:
            row = mirror_lag(connection, self.study_id)
        if row is None:
            return Pending([], "", study=False)
        return Pending(list(row.trials), row.study_state, study=row.study_behind)

    def study(self) -> StudyRow | None:
        """Read the study; None where it was deleted, and then its marks are gone too."""
        with self.database.connect() as connection:
            study = read_study(connection, self.study_id)
        if study is None:
            self.forget()
        return study

    @contextmanager
    def locked(self, trial_id: int) -> Iterator[tuple[Connection, Row[Any] | None]]:
        """A transaction with the trial's mark, locked; None when another mirror holds it.

        None too where as many mirrors write MLflow as may at once.
        """
        # In a transaction of its own: a second mirror would wait for an uncommitted row.
        self._run("mirror_add", trial_id=trial_id, study_id=self.study_id)
        with self.database.long_transaction() as connection:
            mark = None
            if _has_slot(connection):
                key = {"trial_id": trial_id}
                mark = connection.execute(SQL["mirror_lock"], key).one_or_none()
            yield connection, mark

    @contextmanager
    def locked_study(self) -> Iterator[tuple[Connection, Row[Any] | None]]:
        """A transaction with the study's mark; waits for another mirror, as all need its run."""
        self._run("mirror_study_add", study_id=self.study_id)
        key = {"study_id": self.study_id}
        while True:
            # A transaction for each look: one that waited would occupy what it waits for
            with self.database.long_transaction() as connection:
                if _has_slot(connection):
                    found = connection.execute(SQL["mirror_study_lock"], key)
                    yield connection, found.one_or_none()
                    return
            time.sleep(SLOT_S)

    @staticmethod
    def keepalive(connection: Connection) -> None:
        """Say that the holder of a lock lives: the database ends those that say nothing."""
        connection.execute(text("select 1"))

    @staticmethod
    def done(connection: Connection, trial: TrialProjection, run_id: str) -> None:
        """Record that the trial's run shows the trial as it was read."""
        connection.execute(
            SQL["mirror_done"],
            {
                "trial_id": trial.trial_id, "run_id": run_id, "change": trial.change,
                "steps": len(trial.row.steps), "state": trial.state, "files": trial.ended,
            },
        )  # fmt: skip

    def study_done(
        self, connection: Connection, experiment_id: str, run_id: str, state: str
    ) -> None:
        """Record that the study's own run shows this state."""
        row = {"study_id": self.study_id, "experiment_id": experiment_id, "run_id": run_id}
        connection.execute(SQL["mirror_study_done"], row | {"state": state})

    def failed(self, trial_id: int, error: str) -> None:
        """Record why the copy of a trial failed."""
        self._run("mirror_failed", trial_id=trial_id, error=error)

    def study_failed(self, error: str) -> None:
        """Record why nothing of the study is copied."""
        self._run("mirror_study_add", study_id=self.study_id)
        self._run("mirror_study_failed", study_id=self.study_id, error=error)

    def study_works(self) -> None:
        """Record that nothing keeps the study from being copied any more."""
        self._run("mirror_study_works", study_id=self.study_id)

    def recorded(self) -> dict[str, int]:
        """Run id -> trial id of the runs that were mirrored."""
        with self.database.connect() as connection:
            rows = _trials(connection, self.study_id)
        return {row.run_id: row.trial_id for row in rows if row.run_id is not None}

    def complete_run(self, trial_id: int) -> str | None:
        """Id of the run that shows the whole trial; None while there is none."""
        with self.database.connect() as connection:
            found = connection.scalar(SQL["complete_run"], {"trial_id": trial_id})
        return None if found is None else str(found)

    def reset(self, trial_ids: Sequence[int]) -> None:
        """Forget the MLflow runs of these trials, so that the next sync creates them again."""
        self._run("mirror_reset", trial_ids=list(trial_ids))

    def reset_study(self) -> None:
        """Forget the study's MLflow run, so that the next sync creates it again."""
        self._run("mirror_study_reset", study_id=self.study_id)

    def forget(self) -> None:
        """Drop the rows of trials and studies that were deleted in Optuna."""
        self._run("mirror_forget", study_id=self.study_id)
        self._run("mirror_forget_study", study_id=self.study_id)

    def _run(self, name: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(SQL[name], values)


def read_study(connection: Connection, study_id: int) -> StudyRow | None:
    """The study, or None when it was deleted."""
    key = {"study_id": study_id}
    row = connection.execute(SQL["mirror_study"], key).one_or_none()
    if row is None:
        return None
    return study_row(row, connection.execute(SQL["mirror_best"], key).one_or_none())


def read_trial(
    connection: Connection, study: StudyRow, trial_id: int, mark: Row[Any] | None = None
) -> TrialProjection | None:
    """The trial with its figures since the mark, or all of them; None when it was deleted."""
    after = 0 if mark is None else mark.change
    row = connection.execute(
        SQL["mirror_trial"], {"trial_id": trial_id, "change": after}
    ).one_or_none()
    return None if row is None else TrialProjection(study, row, 0 if mark is None else mark.steps)


def trial_ids(connection: Connection, study_id: int) -> list[int]:
    """Ids of a study's trials that MLflow is to show, by number."""
    return [row.trial_id for row in _trials(connection, study_id)]


def _trials(connection: Connection, study_id: int) -> Sequence[Row[Any]]:
    return connection.execute(SQL["mirror_trials"], {"study_id": study_id}).all()


def dashboard_pending(connection: Connection, study_id: int) -> Sequence[int]:
    """Ids of mirrored trials that optuna-dashboard does not show yet, by number."""
    return connection.scalars(SQL["dashboard_pending"], {"study_id": study_id}).all()


def lock_for_dashboard(connection: Connection, trial_id: int) -> Row[Any] | None:
    """Lock the mark of a trial that optuna-dashboard does not show; None when another has it."""
    return connection.execute(SQL["dashboard_lock"], {"trial_id": trial_id}).one_or_none()


def set_on_dashboard(connection: Connection, trial_id: int) -> None:
    """Note that optuna-dashboard shows a trial."""
    connection.execute(SQL["dashboard_done"], {"trial_id": trial_id})


def add_artifact(connection: Connection, trial_id: int, key: str, value: str) -> None:
    """Add an attribute that is an artifact of a trial; one of that key stays as it is."""
    row = {"trial_id": trial_id, "key": key, "value": value}
    connection.execute(SQL["dashboard_artifact"], row)


def add_note_text(
    connection: Connection, study_id: int, *, version_key: str, text_key: str, body: str
) -> None:
    """Add the two attributes that are a note; a note that is there stays."""
    row = {"study_id": study_id, "version_key": version_key, "text_key": text_key, "text": body}
    connection.execute(SQL["dashboard_note"], row)


def _has_slot(connection: Connection) -> bool:
    """Whether this transaction may stay open while MLflow is written."""
    connection.execute(SQL["mirror_patience"])
    return connection.scalar(SQL["mirror_slot"]) is not None
