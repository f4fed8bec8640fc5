"""Store a trial's checkpoints, record them under the lease, and remove what is no longer needed.

Each attempt has an area of its own in the store. A worker that lost its lease can thus neither
remove nor replace what the next one needs: the rows of an attempt never grow after its end.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from hpo.claims.claims import LeaseStatus, StoredCheckpoint, uncleared_attempts
from hpo.errors import StoreError
from hpo.studies.finals import finals_of
from hpo.studies.names import area_of
from hpo.studies.store import delete_study
from hpo.trainer import Checkpoint

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.claims.claims import Claim, Claims
    from hpo.storage.artifacts.store import ArtifactStore, Stored
    from hpo.studies.store import Study


class Checkpoints:
    """The checkpoints of one claimed trial. Not for several threads at once."""

    def __init__(self, claims: Claims, claim: Claim, store: ArtifactStore) -> None:
        self._claims, self._claim, self._store = claims, claim, store
        self._best: tuple[int | None, Stored | None] = (None, None)  # uploaded by this attempt
        self._others: list[uuid.UUID] | None = None  # earlier attempts that may hold something

    @property
    def ids(self) -> dict[str, object]:
        """The study's name, the trial's number and the worker's id, for log records."""
        return {**self._claims.ids, "trial": self._claim.number}

    def found(self) -> list[StoredCheckpoint]:
        """The trial's stored checkpoints, the newest first."""
        return self._claims.checkpoints(self._claim.trial_id)

    def fetch(self, kept: StoredCheckpoint, folder: Path) -> Checkpoint:
        """Copy one checkpoint from the store into `folder`.

        Raises:
            WeightsError: a file of it is missing or was altered.
            StoreError: the store is gone, so nobody knows.
        """
        area = self._area(kept.token)
        state = self._store.fetch(kept.state.sha256, folder / "state", area)
        weights = None
        if kept.weights is not None:
            weights = self._store.fetch(kept.weights.sha256, folder / "weights", area)
        return Checkpoint(kept.epoch, state, kept.best_epoch, weights)

    def keep(self, checkpoint: Checkpoint) -> LeaseStatus:
        """Put a checkpoint into the store, record it, and remove what it supersedes.

        Raises:
            StoreError: the store is gone or full; nothing was recorded.
            DatabaseError: PostgreSQL stayed away longer than the patience.
        """
        area = self._area(self._claim.token)
        state = self._store.put(checkpoint.state, area)
        best_epoch, weights = self._best
        if checkpoint.weights is None:
            best_epoch, weights = checkpoint.best_epoch, None
        elif weights is None or best_epoch != checkpoint.best_epoch:
            best_epoch, weights = checkpoint.best_epoch, self._store.put(checkpoint.weights, area)
        self._best = best_epoch, weights
        kept = StoredCheckpoint(
            epoch=checkpoint.epoch,
            token=self._claim.token,
            state=state,
            best_epoch=best_epoch,
            weights=weights,
        )
        standing = self._claims.record_checkpoint(self._claim, kept)
        if standing is LeaseStatus.LOST:
            # What was recorded before the loss is what the next attempt goes on from
            own = self._claim.token
            self._store.keep_only(area, _needed(self.found(), own))
            return standing
        self._sweep()
        return standing

    def clear(self) -> None:
        """Remove the ended trial's checkpoints; `clear_ended` removes what stays for now."""
        clear_trial(self._claims, self._store, self._claim.trial_id, self._claim.number)

    def _sweep(self) -> None:
        """Remove files that no row names any more, drafts of killed attempts included."""
        rows = self.found()
        if self._others is None:
            # Not later ones: this lease may be lost by now, and what a new holder has just put
            # into the store is recorded only after that
            tokens = self._claims.attempt_tokens(self._claim.trial_id)
            self._others = list(takewhile(lambda token: token != self._claim.token, tokens))
        for token in (self._claim.token, *self._others):
            self._store.keep_only(self._area(token), _needed(rows, token))
        self._others = [token for token in self._others if _needed(rows, token)]

    def _area(self, token: uuid.UUID) -> str:
        return area_of(self._claims.study.uid, self._claim.number, token)


def checkpoint_areas(engine: Engine, study: Study) -> list[str]:
    """Where checkpoints of a study may lie now."""
    return [area_of(study.uid, *attempt) for attempt in uncleared_attempts(engine, study)]


def delete_with_checkpoints(
    engine: Engine, store: ArtifactStore, study: Study
) -> StoreError | None:
    """Delete a study, its finals, and the checkpoints of their trials that were running.

    Returns:
        Why those checkpoints stay in the store, the study being deleted; None when they went too.

    Raises:
        UnknownStudyError: the study was deleted already.
    """
    finals = finals_of(engine, study)
    areas = [
        area for one in (study, finals) if one is not None for area in checkpoint_areas(engine, one)
    ]
    delete_study(engine, study)
    try:
        for area in areas:
            store.keep_only(area, ())
    except StoreError as error:
        return error
    return None


def clear_trial(claims: Claims, store: ArtifactStore, trial_id: int, number: int) -> None:
    """Remove the checkpoints of a trial that ended.

    Raises:
        StoreError: the store is gone; the trial stays to be cleared.
    """
    for token in claims.attempt_tokens(trial_id):
        store.keep_only(area_of(claims.study.uid, number, token), ())
    claims.set_cleared(trial_id)


def clear_ended(claims: Claims, store: ArtifactStore) -> None:
    """Remove the checkpoints of ended trials that nobody could clear at their end.

    Raises:
        StoreError: the store is gone.
    """
    for trial_id, number in claims.uncleared():
        clear_trial(claims, store, trial_id, number)


def _needed(rows: Iterable[StoredCheckpoint], token: uuid.UUID) -> set[str]:
    mine = [row for row in rows if row.token == token]
    return {row.state.sha256 for row in mine} | {
        row.weights.sha256 for row in mine if row.weights is not None
    }
