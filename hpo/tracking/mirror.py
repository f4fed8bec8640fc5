"""Copy a study from PostgreSQL into MLflow; safe to repeat, and to be killed at any point.

PostgreSQL is read, MLflow is written, and the trial's mark says how far. The mark is locked while
MLflow is written, so a trial has one writer at a time. A crash at any point leaves something that
the next copy completes: a run is searched by its tags before it is made.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpo.errors import MismatchError, StoreError, TrackingError, WeightsError
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres.engine import Database, storage_url
from hpo.tracking import runs
from hpo.tracking.client import error_code, is_missing, open_client, scrub
from hpo.tracking.projection import STATUS, STUDY_STATUS
from hpo.tracking.sync_state import SyncState, read_study, read_trial
from hpo.tracking.uri import artifact_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection

    from hpo.settings import Settings
    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.tracking.client import Client
    from hpo.tracking.projection import StudyRow, TrialProjection

BUSY_S = 60.0  # how long `sync_study` waits for trials that another mirror writes
HICCUPS = 5  # passes in a row with something that may pass, before it is left for later
LONGEST_ERROR = 500  # characters kept of why a copy failed
_OF_A_TRIAL = (WeightsError, StoreError, MismatchError)  # others' trials may well be copied
_INACTIVE = ("INVALID_PARAMETER_VALUE", "INVALID_STATE")  # MLflow's codes for a deleted run


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

    def plus(self, other: Synced) -> Synced:
        """The sum of two copies."""
        return Synced(
            self.copied + other.copied, self.rebuilt + other.rebuilt, self.behind + other.behind,
            self.errors + other.errors,
        )  # fmt: skip


class Mirror:
    """The mirror of one study. One instance serves one thread.

    Args:
        database: the studies' database. A trial's copy holds one of its connections for as long as
            MLflow takes: a pool that claims and renewals need too has another one for them.
        open_client: gives a client of MLflow; asked again after a failure.
        study_id: Optuna's id.
        store: where the trials' files are.
        location: where MLflow is to keep its files when it is reached without a server.
        shared: whether the database is others' too, and stays open when this mirror is closed.

    Attributes:
        hiccups: why trials were not copied in the last `sync_pending` that may be the next time.
    """

    def __init__(
        self,
        database: Database,
        open_client: Callable[[], Client],
        study_id: int,
        store: ArtifactStore,
        location: str,
        *,
        shared: bool = False,
    ) -> None:
        self.database, self.study_id, self.store = database, study_id, store
        self.sync_state = SyncState(database, study_id)
        self._shared = shared
        self._open, self._location = open_client, location
        self._client: Client | None = None
        self._place: tuple[str, str] | None = None
        self.hiccups: list[str] = []

    def client(self) -> Client:
        """The client in use.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        if self._client is None:
            self._client = self._open()
        return self._client

    def pending_count(self) -> int:
        """How many runs MLflow lacks or has as they no longer are, by PostgreSQL alone."""
        return self.sync_state.pending().count

    def sync_trial(self, trial_id: int) -> bool:
        """Bring one trial's run to what PostgreSQL has.

        Returns:
            False when nothing was to do, another mirror is at it, or it does not exist.

        Raises:
            TrackingError: MLflow cannot be reached.
            WeightsError: a file of the trial is missing or was altered.
        """
        study = self.sync_state.study()
        place = None if study is None else self._parent()
        if study is None or place is None:
            return False
        with self.sync_state.locked(trial_id) as (connection, mark):
            if mark is None:
                return False
            trial = read_trial(connection, study, trial_id, mark)
            if trial is not None and trial.is_at(mark):
                return False  # another mirror was quicker
            if trial is not None:
                self._copy(connection, trial, mark, *place)
        if trial is None:
            self.sync_state.forget()
        return trial is not None

    def _copy(
        self,
        connection: Connection,
        trial: TrialProjection,
        mark: Any,
        experiment_id: str,
        parent: str,
    ) -> None:
        # However slow MLflow is, PostgreSQL sees that the mark's holder lives.
        client = self.client().with_beat(lambda: self.sync_state.keepalive(connection))
        run = runs.live_run(client, mark.run_id)
        if run is None:
            # All of its epochs, not only those since the mark.
            trial = read_trial(connection, trial.study, trial.trial_id) or trial
            key = {"hpo.study_id": str(self.study_id), "hpo.trial": str(trial.number)}
            run = runs.ensure_run(
                client, experiment_id, trial.name, key, start_ms=trial.row.start_ms, parent=parent
            )
            if trial.study.dataset is not None:
                runs.add_dataset(client, run, *trial.study.dataset)
        runs.update_run(
            client, run,
            params=trial.params(), tags=trial.tags(), points=trial.points(), parent=parent,
        )  # fmt: skip
        if trial.ended:
            runs.add_files(client, run.info.run_id, trial.files, self.store)
        runs.set_run_status(client, run, STATUS[trial.state], trial.row.end_ms)
        self.sync_state.done(connection, trial, run.info.run_id)

    def sync_parent(self) -> bool:
        """Bring the study's own run to what PostgreSQL has; False when there is no such study."""
        pending = self.sync_state.pending()
        if not pending.study_state:
            self.sync_state.forget()
            return False
        if pending.study:
            self._place = self._ensure_parent(pending.study_state)
        return True

    def _parent(self) -> tuple[str, str] | None:
        """(experiment id, run id) of the study, looked up once; None when it was deleted."""
        if self._place is None:
            self._place = self._ensure_parent(None)
        return self._place

    def run_location(self) -> tuple[str, str] | None:
        """(experiment id, run id) of the study's run, looked up now; None: it was deleted.

        MLflow is asked first, which may have been emptied since the last sync.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        self._detect_reset()
        return self._parent()

    def _parent_location(self) -> tuple[str, str] | None:
        """The place of the study whose finals this one holds; None where it is no such study."""
        study = self.sync_state.study()
        if study is None or study.parent_id is None:
            return None
        above = Mirror(self.database, self.client, study.parent_id, self.store, self._location)
        return above.run_location()

    def _ensure_parent(self, state: str | None) -> tuple[str, str] | None:
        """Find or create the study's run and show `state` if given: (experiment id, run id)."""
        # Before a lock is held, so that one connection is enough: a client looks for its database
        self.client()
        above = self._parent_location()
        with self.sync_state.locked_study() as (connection, mark):
            study = read_study(connection, self.study_id)
            if mark is None or study is None:
                return None
            client = self.client().with_beat(lambda: self.sync_state.keepalive(connection))
            parent = above and above[1]
            experiment_id = above[0] if above else runs.ensure_experiment(
                client, mark.experiment_id, study.experiment, self._location
            )  # fmt: skip
            run = runs.live_run(client, mark.run_id)
            if run is not None and state is None:
                return experiment_id, run.info.run_id
            if run is None:
                run = self._new_parent(client, experiment_id, study, parent)
            shown = state or "open"
            tags = study.tags() | {"hpo.state": shown}
            runs.update_run(client, run, params=study.params(), tags=tags, parent=parent)
            runs.set_run_status(client, run, STUDY_STATUS[shown], study.last_ms or study.created_ms)
            self.sync_state.study_done(connection, experiment_id, run.info.run_id, shown)
            return experiment_id, run.info.run_id

    def _new_parent(
        self, client: Client, experiment_id: str, study: StudyRow, parent: str | None
    ) -> Any:
        key = {"hpo.study_id": str(self.study_id), "hpo.kind": "study"}
        run = runs.ensure_run(
            client, experiment_id, study.name, key,
            start_ms=study.created_ms, exact_start=study.created_here, parent=parent,
        )  # fmt: skip
        if study.spec is not None:
            client.log_dict(run.info.run_id, study.spec.to_dict(), "study.json")
        if study.dataset is not None:
            runs.add_dataset(client, run, *study.dataset)
        return run

    def reconcile(self) -> int:
        """Mark what is gone from MLflow, to be built again; returns how many trials.

        Runs that were made twice are removed: an answer may be lost, or come too late.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        self._place = None
        study = self.sync_state.study()
        if study is None or study.run_id is None:
            return 0
        client = self.client()
        found = runs.find_experiment(client, study.experiment_id, study.experiment)
        tags = {"hpo.study_id": str(self.study_id)}
        live = [] if found is None else runs.find_runs(client, found.experiment_id, tags)
        there = {run.info.run_id for run in live}
        if study.run_id not in there:
            self.sync_state.reset_study()
        recorded = self.sync_state.recorded()
        gone = [trial_id for run_id, trial_id in recorded.items() if run_id not in there]
        if gone:
            self.sync_state.reset(gone)
        self._remove_twins(client, live, {study.run_id: None, **recorded})
        return len(gone)

    def _remove_twins(
        self, client: Client, live: list[Any], recorded: dict[str, int | None]
    ) -> None:
        """Delete live runs of the same trial (None: of the study) as a recorded one."""
        ours = {_place_of(run): run for run in live if run.info.run_id in recorded}
        for run in live:
            kept = ours.get(_place_of(run))
            if kept is None or run.info.run_id in recorded:
                continue
            if run.info.start_time != kept.info.start_time:
                continue  # of a database that was made anew and counts from the beginning again
            trial_id = recorded[kept.info.run_id]
            marks = self.sync_state
            locked = marks.locked_study() if trial_id is None else marks.locked(trial_id)
            with locked as (_, mark):  # nobody is making the trial's run just now
                if mark is not None and mark.run_id == kept.info.run_id:
                    client.delete_run(run.info.run_id)

    def _detect_reset(self) -> None:
        """Find out whether MLflow was emptied since the last pass: all is to be built again."""
        self._place = None
        study = self.sync_state.study()
        known = None if study is None else study.run_id
        if known is not None and runs.live_run(self.client(), known) is None:
            self.reconcile()

    def recover(self) -> None:
        """Go on after a failure: addresses may have changed, and MLflow may be empty.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        self._client = None
        self.reconcile()

    def sync_pending(
        self, first: Iterable[int] = (), *, on_trial: Callable[[int, int], None] | None = None
    ) -> Synced:
        """Bring everything that is pending up to date once, the trials `first` before others.

        What MLflow refuses for one trial is noted and does not hold up the others; nor does what
        may pass, which is in `hiccups` afterwards.

        Args:
            first: ids of trials.
            on_trial: called with (how many are done, of how many).

        Raises:
            TrackingError: MLflow cannot be reached.
            DBAPIError: nor can PostgreSQL.
        """
        result = Synced()
        own = set(first)
        self.hiccups = []
        if self.sync_state.pending().count:
            self._detect_reset()
        order = sorted(self.sync_state.pending().trials, key=lambda trial_id: trial_id not in own)
        for done, trial_id in enumerate(order):
            if on_trial is not None:
                on_trial(done, len(order))
            self._attempt(trial_id, result)
        self.sync_parent()
        self.sync_state.study_works()
        result.behind = self.pending_count()
        return result

    def _attempt(self, trial_id: int, result: Synced) -> None:
        try:
            result.copied += self.sync_trial(trial_id)
        except Exception as error:
            passing = isinstance(error, (TrackingError, StoreError))
            if isinstance(error, TrackingError):
                self.client().ping()  # raises when it is not this trial's fault
            elif not isinstance(error, _OF_A_TRIAL) and not error_code(error):
                raise
            if is_missing(error) or error_code(error) in _INACTIVE:
                self.reconcile()  # something may have been deleted while we wrote
            text = self.note(error)
            self.sync_state.failed(trial_id, text)
            (self.hiccups if passing else result.errors).append(text)

    def sync_study(self, *, on_trial: Callable[[int, int], None] | None = None) -> Synced:
        """Bring the whole study up to date, also where runs were deleted in MLflow.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        total = Synced(rebuilt=self.reconcile())
        until = time.monotonic() + BUSY_S
        hiccups = 0
        while True:
            result = self.sync_pending(on_trial=on_trial)
            total.copied += result.copied
            total.errors, total.behind = result.errors + self.hiccups, result.behind
            hiccups = hiccups + 1 if self.hiccups else 0
            # What is left is refused, or another mirror is at it just now.
            if result.behind <= len(result.errors) or hiccups >= HICCUPS:
                return total
            if time.monotonic() > until:
                return total
            time.sleep(0.5)

    def note(self, error: BaseException) -> str:
        """The error as one line without passwords."""
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        shown = scrub(text, self._client.uri) if self._client is not None else text
        return shown[:LONGEST_ERROR]

    def close(self) -> None:
        """Give the database connections back."""
        if not self._shared:
            self.database.dispose()


def _place_of(run: Any) -> str | None:
    """The number of the run's trial; None for a study's own run."""
    number = run.data.tags.get("hpo.trial")
    return None if number is None else str(number)


def open_mirror(settings: Settings, study_id: int, *, database: Database | None = None) -> Mirror:
    """A mirror that borrows connections of `database`, or has its own; the caller closes it.

    Raises:
        DatabaseError: PostgreSQL cannot be reached.
    """
    through = None if database is None else database.engine
    return Mirror(
        database or Database.open(settings, pool_size=1),
        lambda: open_client(settings, storage_url(settings), through=through),
        study_id, open_store(settings), artifact_root(settings),
        shared=database is not None,
    )  # fmt: skip
