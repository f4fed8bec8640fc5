"""Copies a study from PostgreSQL into MLflow, safely repeatable; knows no thread and no worker.

PostgreSQL is read, MLflow is written; `hpo.mirror` says how far. A trial has one writer at a time,
by the lock of its row there, which is held while MLflow is written. A crash at any point leaves
something that the next copy completes: a run is searched by its tags before it is made.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpo.artifacts import open_store
from hpo.database.engine import connect, storage_url
from hpo.database.queries import query
from hpo.errors import TrackingError, WeightsError
from hpo.tracking import runs
from hpo.tracking.client import error_code, is_missing, open_client, scrub
from hpo.tracking.rows import STATUS, STUDY_STATUS, read_study, read_trial
from hpo.tracking_uri import artifact_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Engine

    from hpo.artifacts import FolderStore
    from hpo.settings import Settings
    from hpo.tracking.client import Client
    from hpo.tracking.rows import StudyRow, TrialRow

log = logging.getLogger(__name__)

BUSY_S = 60.0  # how long `sync_study` waits for trials that another mirror writes
LONGEST_ERROR = 500  # characters kept of why a copy failed


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


@dataclass
class Synced:
    """What a copy did.

    Attributes:
        copied: trials that were written.
        rebuilt: trials whose run was gone from MLflow.
        behind: runs that are still behind.
        errors: what MLflow refused, one sentence each.
    """

    copied: int = 0
    rebuilt: int = 0
    behind: int = 0
    errors: list[str] = field(default_factory=list)


class Mirror:
    """The mirror of one study. One instance serves one thread.

    Args:
        engine: the studies' database. A trial's copy holds one of its connections for as long as
            MLflow takes, so it should not be the pool that claims and renewals need.
        open_client: gives a client of MLflow; asked again after a failure.
        study_id: Optuna's id.
        store: where the trials' files are.
        location: where MLflow is to keep its files when it is reached without a server.
    """

    def __init__(
        self,
        engine: Engine,
        open_client: Callable[[], Client],
        study_id: int,
        store: FolderStore,
        location: str,
    ) -> None:
        self.engine, self.study_id, self.store = engine, study_id, store
        self._open, self._location = open_client, location
        self._client: Client | None = None

    def client(self) -> Client:
        """The client in use.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        if self._client is None:
            self._client = self._open()
        return self._client

    def lose_client(self) -> None:
        """Open a new client at the next use: after an outage addresses may have changed."""
        self._client = None

    def pending(self) -> Pending:
        """What MLflow lacks, by PostgreSQL alone."""
        with self.engine.connect() as connection:
            row = connection.execute(
                query("mirror_behind"), {"study_id": self.study_id}
            ).one_or_none()
        if row is None:
            return Pending([], "", study=False)
        return Pending(list(row.trials), row.study_state, study=row.study_behind)

    def behind(self) -> int:
        """How many runs MLflow lacks or has as they no longer are, by PostgreSQL alone."""
        return self.pending().count

    def sync_trial(self, trial_id: int) -> bool:
        """Bring one trial's run to what PostgreSQL has.

        Returns:
            False when another mirror is at it, or it does not exist.

        Raises:
            TrackingError: MLflow cannot be reached.
            WeightsError: a file of the trial is missing or was altered.
        """
        study = self._study()
        if study is None:
            return False
        place = self._ensure_parent()
        if place is None:
            return False
        experiment_id, parent = place
        self._run("mirror_add", trial_id=trial_id, study_id=self.study_id)
        with self.engine.begin() as connection:
            connection.execute(query("mirror_patience"))
            mark = connection.execute(query("mirror_lock"), {"trial_id": trial_id}).one_or_none()
            if mark is None:
                return False
            client = self.client()
            run = runs.live_run(client, mark.run_id)
            if run is None:
                mark = None  # everything again, from the first epoch
            after = 0 if mark is None else mark.change
            trial = read_trial(connection, study, trial_id, after=after)
            if trial is None:
                connection.execute(query("mirror_forget"), {"study_id": self.study_id})
                return False
            if run is None:
                key = {"hpo.study_id": str(self.study_id), "hpo.trial": str(trial.number)}
                run = runs.ensure_run(
                    client, experiment_id, trial.name, key,
                    start_ms=trial.row.start_ms, parent=parent,
                )  # fmt: skip
            self._write(client, run, trial, parent, mark)
            connection.execute(
                query("mirror_done"),
                {
                    "trial_id": trial_id, "run_id": run.info.run_id, "change": trial.change,
                    "steps": len(trial.row.steps), "state": trial.state, "files": trial.ended,
                },
            )  # fmt: skip
        return True

    def _write(self, client: Client, run: Any, trial: TrialRow, parent: str, mark: Any) -> None:
        points = trial.points()
        runs.bring_up(
            client, run, params=trial.params(), tags=trial.tags(), points=points, parent=parent
        )
        if trial.study.fingerprint is not None and mark is None:
            spec = trial.study.spec
            name = trial.study.name if spec is None or spec.data is None else spec.data
            runs.add_dataset(client, run, name, trial.study.fingerprint)
        if trial.ended:
            runs.add_files(client, run.info.run_id, trial.files, self.store)
        runs.bring_status(client, run, STATUS[trial.state], trial.row.end_ms)

    def sync_parent(self) -> bool:
        """Bring the study's own run to what PostgreSQL has; False when there is no such study."""
        pending = self.pending()
        if not pending.study_state:
            self._forget()
            return False
        if pending.study:
            self._ensure_parent(pending.study_state)
        return True

    def _ensure_parent(self, state: str | None = None) -> tuple[str, str] | None:
        """(experiment id, run id) of the study; with `state`, its run shows it afterwards.

        None when the study was deleted.
        """
        self._run("mirror_study_add", study_id=self.study_id)
        with self.engine.begin() as connection:
            connection.execute(query("mirror_patience"))
            # Waits for another mirror that makes it: every trial needs its id.
            mark = connection.execute(
                query("mirror_study_lock"), {"study_id": self.study_id}
            ).one_or_none()
            study = read_study(connection, self.study_id)
            if mark is None or study is None:
                return None
            client = self.client()
            run = runs.live_run(client, mark.run_id)
            if run is not None and state is None:
                return run.info.experiment_id, run.info.run_id
            experiment_id = runs.ensure_experiment(
                client, mark.experiment_id, study.name, self._location
            )
            if run is None:
                run = self._new_parent(client, experiment_id, study)
            shown = state or "open"
            runs.bring_up(client, run, params=study.params(), tags=_parent_tags(study, shown))
            runs.bring_status(client, run, STUDY_STATUS[shown], study.last_ms or study.created_ms)
            row = {"study_id": self.study_id, "experiment_id": experiment_id,
                   "run_id": run.info.run_id, "state": shown}  # fmt: skip
            connection.execute(query("mirror_study_done"), row)
        return experiment_id, run.info.run_id

    def _new_parent(self, client: Client, experiment_id: str, study: StudyRow) -> Any:
        key = {"hpo.study_id": str(self.study_id), "hpo.kind": "study"}
        run = runs.ensure_run(
            client, experiment_id, study.name, key,
            start_ms=study.created_ms, exact_start=study.created_here,
        )  # fmt: skip
        if study.spec is not None:
            client.log_dict(run.info.run_id, study.spec.to_dict(), "study.json")
            if study.fingerprint is not None:
                name = study.spec.data or study.name
                runs.add_dataset(client, run, name, study.fingerprint)
        return run

    def reconcile(self) -> int:
        """Mark the trials whose run is gone from MLflow, to be built again.

        Returns:
            How many.
        """
        study = self._study()
        if study is None:
            return 0
        client = self.client()
        with self.engine.connect() as connection:
            rows = connection.execute(query("mirror_trials"), {"study_id": self.study_id}).all()
        recorded = {row.run_id: row.trial_id for row in rows if row.run_id is not None}
        if not recorded:
            return 0
        found = runs.find_experiment(client, study.experiment_id, study.name)
        tags = {"hpo.study_id": str(self.study_id)}
        there = [] if found is None else runs.find_runs(client, found.experiment_id, tags)
        gone = list(recorded.keys() - {run.info.run_id for run in there})
        if gone:
            self._run("mirror_reset", trial_ids=[recorded[run_id] for run_id in gone])
        return len(gone)

    def sync_pending(
        self, first: Iterable[int] = (), *, on_trial: Callable[[int, int], None] | None = None
    ) -> Synced:
        """Bring everything that is pending up to date once, the trials `first` before others.

        What MLflow refuses for one trial is noted and does not hold up the others.

        Args:
            first: ids of trials.
            on_trial: called with (how many are done, of how many).

        Raises:
            TrackingError: MLflow cannot be reached.
            DatabaseError: nor can PostgreSQL.
        """
        result = Synced()
        pending = self.pending()
        own = set(first)
        order = sorted(pending.trials, key=lambda trial_id: trial_id not in own)
        for done, trial_id in enumerate(order):
            if on_trial is not None:
                on_trial(done, len(order))
            self._attempt(trial_id, result)
        self.sync_parent()
        result.behind = self.behind()
        return result

    def _attempt(self, trial_id: int, result: Synced) -> None:
        try:
            result.copied += self.sync_trial(trial_id)
        except Exception as error:
            if isinstance(error, TrackingError):
                self.client().ping()  # raises when it is not this trial's fault
            elif not isinstance(error, WeightsError) and not error_code(error):
                raise
            if is_missing(error) or "must be in the 'active' state" in str(error):
                self.reconcile()  # deleted while we wrote
            text = self.note(error)
            self._run("mirror_failed", trial_id=trial_id, error=text)
            result.errors.append(text)

    def sync_study(self, *, on_trial: Callable[[int, int], None] | None = None) -> Synced:
        """Bring the whole study up to date, also where runs were deleted in MLflow.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        rebuilt = self.reconcile()
        total = Synced(rebuilt=rebuilt)
        until = time.monotonic() + BUSY_S
        while True:
            result = self.sync_pending(on_trial=on_trial)
            total.copied += result.copied
            total.errors, total.behind = result.errors, result.behind
            # What is left is refused, or another mirror is at it just now.
            if result.behind <= len(result.errors) or time.monotonic() > until:
                return total
            time.sleep(0.5)

    def note(self, error: BaseException) -> str:
        """The error as one line without passwords."""
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        shown = scrub(text, self._client.uri) if self._client is not None else text
        return shown[:LONGEST_ERROR]

    def _study(self) -> StudyRow | None:
        with self.engine.connect() as connection:
            study = read_study(connection, self.study_id)
        if study is None:
            self._forget()
        return study

    def _forget(self) -> None:
        self._run("mirror_forget", study_id=self.study_id)
        self._run("mirror_forget_study", study_id=self.study_id)

    def _run(self, name: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(query(name), values)

    def close(self) -> None:
        """Give the database connections back."""
        self.engine.dispose()


def open_mirror(settings: Settings, study_id: int) -> Mirror:
    """A mirror with an engine of its own; the caller closes it.

    Raises:
        DatabaseError: PostgreSQL cannot be reached.
    """
    return Mirror(
        connect(settings),
        lambda: open_client(settings, storage_url(settings)),
        study_id,
        open_store(settings),
        artifact_root(settings),
    )


def _parent_tags(study: StudyRow, state: str) -> dict[str, str]:
    return study.tags() | {"hpo.state": state}
