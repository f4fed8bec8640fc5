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
from hpo.storage.postgres.queries import query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.storage.postgres.engine import Database
    from hpo.studies.store import Study
    from hpo.trainer import Epoch


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


@dataclass(frozen=True)
class Claim:
    """A trial that this worker may run while its token is the lease's.

    Attributes:
        trial_id: Optuna's id, unique in the database.
        number: the trial's number within its study.
        token: the fence of every write.
        takeovers: how often the trial changed hands.
        judged: epochs up to this one were reported in an earlier life and survived the pruner.
        params: every active parameter, fixed ones included.
    """

    trial_id: int
    number: int
    token: uuid.UUID
    takeovers: int
    pruning_checked_to: int
    params: dict[str, Any]


@dataclass(frozen=True)
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
        study: the study.
        lease_s: how long a lease lasts without renewal.
    """

    def __init__(self, database: Database, study: Study, worker_id: int, *, lease_s: float) -> None:
        # Loaded now and as a whole: the threads of a worker would begin to load it at once, and
        # Python then lets one of them see half a module.
        import optuna  # noqa: F401 - see above

        self._database, self.study, self._worker_id = database, study, worker_id
        self.lease_s = lease_s
        self._history = History(study.study_id, study.name, study.spec.objective.direction)

    def claim(self) -> Claim | NoTrial:
        """Take over a silent worker's trial, else a waiting one, else make one in the budget.

        The trial is handed out only when all its parameters are stored.
        """
        token = uuid.uuid4()
        row = self._database.fetch_one(
            query("claim"), worker=self._worker_id, token=str(token), study=self.study.study_id,
            lease_s=self.lease_s,
        )  # fmt: skip
        if row.outcome == "lost":  # another took the trial over before we learnt that it was ours
            return self.claim()
        if row.outcome != "trial":
            return NoTrial(row.outcome)
        return self._with_params(row, token)

    def _with_params(self, row: Any, token: uuid.UUID) -> Claim | NoTrial:
        # No connection is held while sampling, which takes long with many trials
        snapshot = self._database.run(self._history.snapshot)
        try:
            judged = snapshot.get_trial(row.trial_id).last_step or 0
        except KeyError:  # deleted outside this service since the claim
            return self.claim()
        suggestion = suggest(self.study.spec, snapshot, row.trial_id)
        values = {
            "trial": row.trial_id, "token": str(token),
            "params": json.dumps(suggestion.stored), "attrs": json.dumps(suggestion.attrs),
        }  # fmt: skip
        if not self._database.scalar(query("store_params"), **values):
            # The lease was lost while sampling: there is something to claim, so ask again.
            return self.claim()
        return Claim(row.trial_id, row.number, token, row.takeovers, judged, suggestion.params)

    def renew(self, claim: Claim) -> LeaseStatus:
        """Lengthen the lease."""
        row = self._database.fetch_one(query("renew"), **self._fence(claim), lease_s=self.lease_s)
        return LeaseStatus(row.standing)

    def report(self, claim: Claim, epoch: Epoch) -> LeaseStatus:
        """Store an epoch's metrics; the same epoch again replaces them. Renews the lease."""
        value = epoch.metrics.get(self.study.spec.objective.metric, math.nan)
        metrics = {name: _or_none(figure) for name, figure in epoch.metrics.items()}
        row = self._database.fetch_one(
            query("report"), **self._fence(claim), epoch=epoch.number,
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

        snapshot = self._database.run(self._history.snapshot)
        if claim.trial_id not in {t._trial_id for t in snapshot.get_all_trials(0)}:  # noqa: SLF001 - the id our tables use
            return False
        pruned, rungs = should_prune(self.study.spec, snapshot, claim.trial_id)
        if rungs:
            attrs = json.dumps(rungs)
            self._database.execute(query("store_rungs"), **self._fence(claim), attrs=attrs)
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
        row = self._database.fetch_one(
            query("tell"), **self._fence(claim), state=end.value, reason=reason or None,
            attrs=json.dumps(texts), files=json.dumps(pairs), last=last,
        )  # fmt: skip
        return bool(row.standing == "told")

    def release(self, claim: Claim) -> bool:
        """Give the trial back unfinished, for another worker to take over at once."""
        return bool(self._database.fetch_one(query("release"), **self._fence(claim)).released)

    def resume(self, claim: Claim, epoch: int, note: str) -> bool:
        """Note that this attempt goes on after `epoch`, 0 for the start; False: it is lost.

        Checkpoints of later epochs are forgotten: they could not be used.
        """
        row = self._database.fetch_one(
            query("resume"), **self._fence(claim), epoch=epoch, note=note or None
        )
        return bool(row.resumed)

    def record_checkpoint(self, claim: Claim, kept: StoredCheckpoint) -> LeaseStatus:
        """Record a checkpoint that the store holds; the newest and the one before are kept."""
        row = self._database.fetch_one(
            query("checkpoint"), **self._fence(claim), epoch=kept.epoch, sha256=kept.state.sha256,
            bytes=kept.state.size, best_epoch=kept.best_epoch,
            best_sha256=kept.weights and kept.weights.sha256,
            best_bytes=kept.weights and kept.weights.size,
        )  # fmt: skip
        return LeaseStatus.LOST if row.standing == "lost" else LeaseStatus.GO

    def checkpoints(self, trial_id: int) -> list[StoredCheckpoint]:
        """A trial's checkpoints, the newest first."""
        return [_kept(row) for row in self.rows("checkpoints", trial=trial_id)]

    def set_worker_warning(self, text: str) -> None:
        """What `hpo status` says of this worker; "" when all is well again."""
        self.rows("warn", worker=self._worker_id, warning=text or None)

    def rows(self, name: str, **values: Any) -> list[Any]:
        """All rows of a named query, or of a statement that is safe to repeat."""
        return self._database.fetch_all(query(name), **values)

    @staticmethod
    def _fence(claim: Claim) -> dict[str, Any]:
        return {"trial": claim.trial_id, "token": str(claim.token)}


def _kept(row: Any) -> StoredCheckpoint:
    weights = None if row.best_sha256 is None else Stored(row.best_sha256, row.best_bytes)
    state = Stored(row.sha256, row.bytes)
    return StoredCheckpoint(row.epoch, row.token, state, row.best_epoch, weights)


def _or_none(value: float) -> float | None:
    """JSON has neither NaN nor infinities."""
    return float(value) if math.isfinite(value) else None
