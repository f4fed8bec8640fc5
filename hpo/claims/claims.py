"""Claim trials of a study and write for them: exact budgets, leases, fence and takeover.

Every verb is one function of the schema `hpo` in one transaction, safe to repeat after a lost
acknowledgement: a claim is found again by its token, a report replaces itself, a told trial stays
told. Losing a race is a value (`LeaseStatus.LOST`), not an error. Thread-safe: each call takes a
connection of its own from the database's pool.
"""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from hpo.claims.history import History
from hpo.claims.suggest import should_prune, suggest
from hpo.storage.artifacts.store import Stored
from hpo.storage.postgres.queries import Queries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Engine

    from hpo.claims.snapshot import Snapshot
    from hpo.storage.postgres.engine import Database
    from hpo.studies.store import Study
    from hpo.trainer import Epoch

SQL = Queries(__name__)


class LeaseStatus(Enum):
    """What a fenced write found: the lease holds, the study was stopped, or the lease is lost."""

    GO = "go"
    STOP = "stop"  # the study was stopped: end at this epoch
    LOST = "lost"  # the lease is another's, or the trial or study was ended or deleted


class NoTrial(Enum):
    """Why a claim got no trial."""

    WAIT = "wait"  # all are claimed, some still run: a takeover may come
    FINISHED = "finished"
    STOPPED = "stopped"
    DELETED = "deleted"


class End(Enum):
    """How a trial ends."""

    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this worker may run while its token is the lease's.

    Attributes:
        trial_id: Optuna's id, unique in the database.
        number: the trial's number within its study.
        token: the fence of every write.
        takeovers: how often the trial changed hands.
        pruning_checked_to: epochs up to this one were reported before a takeover and survived the
            pruner.
        params: every active parameter, fixed ones included.
    """

    trial_id: int
    number: int
    token: uuid.UUID
    takeovers: int
    pruning_checked_to: int
    params: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """A checkpoint in the store.

    Attributes:
        epoch: the state is that at this epoch's end.
        token: of the attempt that made it.
        state: the training's state.
        best_epoch: the best one so far; None while there is none.
        weights: of the best epoch.
    """

    epoch: int
    token: uuid.UUID
    state: Stored
    best_epoch: int | None
    weights: Stored | None


class Claims:
    """The claims of one worker on one study.

    Attributes:
        database: where the claims are made.
        study: the study.
        lease_s: how long a lease lasts without renewal.
    """

    def __init__(self, database: Database, study: Study, worker_id: int, *, lease_s: float) -> None:
        # Loaded now and as a whole: the threads of a worker would begin to load it at once, and
        # Python then lets one of them see half a module.
        import optuna  # noqa: F401 - see above

        self.database, self.study, self._worker_id = database, study, worker_id
        self.lease_s = lease_s
        self._history = History(study.study_id, study.name, study.spec.objective.direction)

    @property
    def ids(self) -> dict[str, object]:
        """The study's name and the worker's id, for log records."""
        return {"study": self.study.name, "worker": self._worker_id}

    def claim(self) -> Claim | NoTrial:
        """Take over a silent worker's trial, else a waiting one, else make one in the budget.

        The trial is handed out only when all its parameters are stored.
        """
        token = uuid.uuid4()
        row = self.database.fetch_one(
            SQL["claim"], worker=self._worker_id, token=str(token), study=self.study.study_id,
            lease_s=self.lease_s,
        )  # fmt: skip
        if row.outcome == "lost":  # another took the trial over before we learnt that it was ours
            return self.claim()
        if row.outcome != "trial":
            return NoTrial(row.outcome)
        return self._with_params(row, token)

    def _with_params(self, row: Any, token: uuid.UUID) -> Claim | NoTrial:
        # No connection is held while sampling, which takes long with many trials
        snapshot = self.database.run(self._snapshot)
        try:
            judged = snapshot.get_trial(row.trial_id).last_step or 0
        except KeyError:  # deleted outside this service since the claim
            return self.claim()
        suggestion = suggest(self.study.spec, snapshot, row.trial_id)
        values = {
            "trial": row.trial_id, "token": str(token),
            "params": json.dumps(suggestion.stored), "attrs": json.dumps(suggestion.attrs),
        }  # fmt: skip
        if not self.database.scalar(SQL["store_params"], **values):
            # The lease was lost while sampling: there is something to claim, so ask again.
            return self.claim()
        return Claim(
            trial_id=row.trial_id,
            number=row.number,
            token=token,
            takeovers=row.takeovers,
            pruning_checked_to=judged,
            params=suggestion.params,
        )

    def renew(self, claim: Claim) -> LeaseStatus:
        """Lengthen the lease."""
        row = self.database.fetch_one(SQL["renew"], **self._fence(claim), lease_s=self.lease_s)
        return LeaseStatus(row.standing)

    def report(self, claim: Claim, epoch: Epoch) -> LeaseStatus:
        """Store an epoch's metrics; the same epoch again replaces them. Renews the lease."""
        value = epoch.metrics.get(self.study.spec.objective.metric, math.nan)
        metrics = {name: _or_none(figure) for name, figure in epoch.metrics.items()}
        row = self.database.fetch_one(
            SQL["report"], **self._fence(claim), epoch=epoch.number,
            value=None if math.isnan(value) else value, metrics=json.dumps(metrics),
            lease_s=self.lease_s,
        )  # fmt: skip
        return LeaseStatus(row.standing)

    def prunes(self, claim: Claim, epoch: int) -> bool:
        """Whether the pruner ends the trial after this reported epoch.

        An epoch that a trial survived before a takeover is not judged again.
        """
        if epoch <= claim.pruning_checked_to or self.study.spec.pruner.name == "none":
            return False

        snapshot = self.database.run(self._snapshot)
        if claim.trial_id not in {t._trial_id for t in snapshot.get_all_trials(0)}:  # noqa: SLF001 - the id our tables use
            return False
        pruned, rungs = should_prune(self.study.spec, snapshot, claim.trial_id)
        if rungs:
            attrs = json.dumps(rungs)
            self.database.execute(SQL["store_rungs"], **self._fence(claim), attrs=attrs)
        return pruned

    def tell(
        self,
        claim: Claim,
        end: End,
        *,
        reason: str = "",
        attrs: Mapping[str, Any] | None = None,
        files: Mapping[str, Stored] | None = None,
        last: int | None = None,
    ) -> bool:
        """End the trial; its value is that of its best recorded epoch.

        Args:
            claim: the lease.
            end: how it ended.
            last: the last epoch of the training that is told; later ones, which an earlier
                attempt recorded, do not count. None counts all.
            reason: of a FAIL.
            attrs: user attributes shown in optuna-dashboard, JSON-able.
            files: name -> what the artifact store holds for it.

        Returns:
            False when the lease was lost: nothing was written.
        """
        texts = {key: json.dumps(value, default=str) for key, value in (attrs or {}).items()}
        pairs = {name: [item.sha256, item.size] for name, item in (files or {}).items()}
        row = self.database.fetch_one(
            SQL["tell"], **self._fence(claim), state=end.value, reason=reason or None,
            attrs=json.dumps(texts), files=json.dumps(pairs), last=last,
        )  # fmt: skip
        return bool(row.standing == "told")

    def release(self, claim: Claim) -> bool:
        """Give the trial back unfinished, for another worker to take over at once."""
        return bool(self.database.fetch_one(SQL["release"], **self._fence(claim)).released)

    def resume(self, claim: Claim, epoch: int, note: str) -> bool:
        """Note that this attempt goes on after `epoch`, 0 for the start; False: it is lost.

        Checkpoints of later epochs are forgotten: they could not be used.
        """
        row = self.database.fetch_one(
            SQL["resume"], **self._fence(claim), epoch=epoch, note=note or None
        )
        return bool(row.resumed)

    def record_checkpoint(self, claim: Claim, kept: StoredCheckpoint) -> LeaseStatus:
        """Record a checkpoint that the store holds; the newest and the one before are kept."""
        row = self.database.fetch_one(
            SQL["checkpoint"], **self._fence(claim), epoch=kept.epoch, sha256=kept.state.sha256,
            bytes=kept.state.size, best_epoch=kept.best_epoch,
            best_sha256=kept.weights and kept.weights.sha256,
            best_bytes=kept.weights and kept.weights.size,
        )  # fmt: skip
        return LeaseStatus.LOST if row.standing == "lost" else LeaseStatus.GO

    def checkpoints(self, trial_id: int) -> list[StoredCheckpoint]:
        """A trial's checkpoints, the newest first."""
        return [_kept(row) for row in self.database.fetch_all(SQL["checkpoints"], trial=trial_id)]

    def set_worker_warning(self, text: str) -> None:
        """What `hpo status` says of this worker; "" when all is well again."""
        self.database.execute(SQL["warn"], worker=self._worker_id, warning=text or None)

    def attempt_tokens(self, trial_id: int) -> list[uuid.UUID]:
        """The tokens of all attempts at a trial, the earliest first."""
        rows = self.database.fetch_all(SQL["attempt_tokens"], trial=trial_id)
        return [row.token for row in rows]

    def uncleared(self) -> list[tuple[int, int]]:
        """(id, number) of each ended trial whose checkpoints may still lie in the store."""
        rows = self.database.fetch_all(SQL["uncleared"], study=self.study.study_id)
        return [(row.trial_id, row.number) for row in rows]

    def set_cleared(self, trial_id: int) -> None:
        """Note that the store holds no checkpoint of an ended trial any more."""
        self.database.execute(SQL["cleared"], trial=trial_id)

    def _snapshot(self, connection: Connection) -> Snapshot:
        return read_snapshot(connection, self._history)

    @staticmethod
    def _fence(claim: Claim) -> dict[str, Any]:
        return {"trial": claim.trial_id, "token": str(claim.token)}


def read_snapshot(connection: Connection, history: History) -> Snapshot:
    """All trials of a study at this moment, by number; finished ones are read once."""
    key = {"study_id": history.study_id}
    trials = connection.execute(SQL["history"], key | {"known": history.known})
    attrs = connection.execute(SQL["study_attrs"], key)
    return history.snapshot(trials.all(), attrs.all())


def register_worker(
    database: Database,
    study: Study,
    *,
    host: str,
    pid: int,
    device: str,
    slot: str | None = None,
    environment: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """Make a row for a worker; a lost acknowledgement may leave another one, which is nobody's.

    Args:
        database: the studies' database.
        study: the study it works on.
        host: its machine's name.
        pid: of its process.
        device: what it trains on.
        slot: a name that outlives the process; None for none.
        environment: what its trainings depend on, JSON-able.

    Returns:
        (the worker's id, trials that earlier workers of the slot ended).
    """
    row = {
        "study_id": study.study_id, "host": host, "pid": pid, "device": device, "slot": slot,
        "environment": None if environment is None else json.dumps(environment),
    }  # fmt: skip

    def register(connection: Connection) -> tuple[int, int]:
        before = int(connection.execute(SQL["ended_in_slot"], {"slot": slot}).scalar_one())
        return int(connection.execute(SQL["register_worker"], row).scalar_one()), before

    return database.run(register)


def note_worker_left(database: Database, worker_id: int, why: str) -> None:
    """Record, at once or not at all, that a worker ended."""
    with database.transaction() as connection:
        connection.execute(SQL["worker_left"], {"worker_id": worker_id, "why": why})


def uncleared_attempts(engine: Engine, study: Study) -> list[tuple[int, uuid.UUID]]:
    """(trial's number, token) of every attempt that may have left something in the store."""
    with engine.connect() as connection:
        rows = connection.execute(SQL["uncleared_attempts"], {"study": study.study_id}).all()
    return [(row.number, row.token) for row in rows]


def _kept(row: Any) -> StoredCheckpoint:
    weights = None if row.best_sha256 is None else Stored(row.best_sha256, row.best_bytes)
    state = Stored(row.sha256, row.bytes)
    return StoredCheckpoint(
        epoch=row.epoch, token=row.token, state=state, best_epoch=row.best_epoch, weights=weights
    )


def _or_none(value: float) -> float | None:
    """JSON has neither NaN nor infinities."""
    return float(value) if math.isfinite(value) else None
