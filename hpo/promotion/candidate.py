"""Which trial of a study may be promoted, and whether the study is over; writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError
from hpo.storage.postgres.queries import query
from hpo.studies.trials import trial_rows

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from hpo.studies.store import Study


@dataclass(frozen=True)
class Standing:
    """Where a study stands.

    Attributes:
        open_because: why it is not finished; "" when it is.
        counts: trials by how they ended: `complete`, `pruned`, `failed`, and `typed` for those
            that another hand than a worker's completed.
    """

    open_because: str
    counts: dict[str, int]

    def no_candidate(self) -> str:
        """Why there is nothing to promote, in words."""
        words = [f"{count} {name}" for name, count in self.counts.items() if count]
        ended = ", ".join(words) if words else "none has ended"
        if self.counts["typed"]:
            ended += " (typed: completed by another hand than a worker's)"
        return f"no trial is complete with a value that a worker told: {ended}"


@dataclass(frozen=True)
class Candidate:
    """One of a study's best trials.

    Attributes:
        trial_id: Optuna's id.
        number: its number within the study.
        value: the objective's value, of its best epoch.
        best_epoch: counted from 1.
        stored: every parameter that was searched.
        params: every active parameter, fixed ones included.
        weights_name: the weights' name among the trial's artifacts; None when none were kept.
        weights_sha256: hex digest of their content; None when none were kept.
    """

    trial_id: int
    number: int
    value: float
    best_epoch: int
    stored: dict[str, Any]
    params: dict[str, Any]
    weights_name: str | None
    weights_sha256: str | None


def standing(connection: Connection, study: Study) -> Standing | None:
    """Where the study stands; None when it was deleted."""
    row = connection.execute(
        query("promotion_standing"), {"study_id": study.study_id}
    ).one_or_none()
    if row is None:
        return None
    counts = {name: getattr(row, name) for name in ("complete", "pruned", "failed", "typed")}
    because = ""
    if row.running:
        because = f"{row.running} of its trials still run"
    elif row.claimed < row.trials and not row.timed_out:
        because = f"{row.claimed} of {row.trials} trials were claimed"
    return Standing(because, counts)


def ranked_candidates(connection: Connection, study: Study, limit: int) -> list[Candidate]:
    """The best complete trials told under a lease, best first, the earlier first on a tie.

    Pruned trials never compete, and neither do values typed into the dashboard: nobody told them
    under a lease.
    """
    maximize = study.spec.objective.direction == "maximize"
    rows = connection.execute(
        query("promotion_candidates"),
        {"study_id": study.study_id, "maximize": maximize, "limit": limit},
    ).all()
    return [_candidate(connection, study, row) for row in rows]


def candidate_of(connection: Connection, study: Study, number: int) -> Candidate:
    """The trial of that number as a candidate.

    Raises:
        UsageError: it is not complete, or was completed by another hand than a worker's.
    """
    every = ranked_candidates(connection, study, study.trials)
    found = next((one for one in every if one.number == number), None)
    if found is None:
        there = trial_rows(connection, study, number)
        numbers = ", ".join(str(one.number) for one in every) or "none so far"
        what = f"is {there[0].state}: it cannot be promoted" if there else "does not exist"
        raise UsageError(
            f"trial {number} of '{study.name}' {what}",
            hint=f"Trials that a worker completed: {numbers}.",
        )
    return found


def _candidate(connection: Connection, study: Study, row: Row[Any]) -> Candidate:
    stored = trial_rows(connection, study, row.number)[0].params
    return Candidate(
        row.trial_id, row.number, row.value, row.best_epoch, stored, _with_fixed(study, stored),
        row.weights_name, row.sha256,
    )  # fmt: skip


def _with_fixed(study: Study, stored: dict[str, Any]) -> dict[str, Any]:
    from optuna.trial import FixedTrial

    return study.spec.space.suggest(FixedTrial(stored))
