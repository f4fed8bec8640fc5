"""Who was champion when, by our own record alone; asks no MLflow and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.promotion.rows import made_by
from hpo.storage.postgres.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Row

FIGURES = ("metric", "value", "test_value")  # of the evidence, shown with each row


@dataclass(frozen=True)
class Reign:
    """A version that is, or was, champion.

    Attributes:
        version: its number when it became champion.
        decision: that the version was made for, which knows it again under another number; None
            for one that another hand registered.
    """

    version: int
    decision: str | None

    def is_of(self, version: int, decision: str | None) -> bool:
        """Whether that version is meant."""
        if self.decision is None or decision is None:
            return (self.version, self.decision) == (version, decision)
        return self.decision == decision


def history(connection: Connection, model: str, alias: str | None = None) -> list[Row[Any]]:
    """Every decision about a registered model, the earliest first."""
    parameters = {"model": model, "alias": alias}
    return list(connection.execute(query("promotions_of_model"), parameters).all())


def succession(rows: Iterable[Row[Any]]) -> list[Reign]:
    """The champions that a rollback can go through, the latest last; empty: there was none.

    What was rolled back is not in it: after A, B and a rollback to A, nothing leads back to B. A
    time without a champion leaves those before it where they were.
    """
    line: list[Reign] = []
    for row in rows:
        if row.outcome == "promoted":
            if row.previous_version is not None and not line:
                line = [Reign(row.previous_version, None)]
            line = _until(line, Reign(row.version, made_by(row)))
        elif row.outcome == "rolled_back":
            line = line[:-1] if row.version is None else _until(
                line, Reign(row.version, made_by(row))
            )  # fmt: skip
    return line


def _until(line: list[Reign], reign: Reign) -> list[Reign]:
    """The line with this one last, which may be in it already."""
    for index in reversed(range(len(line))):
        if line[index].is_of(reign.version, reign.decision):
            return line[: index + 1]
    return [*line, reign]


def entry(row: Row[Any]) -> dict[str, Any]:
    """A row as `hpo champion --history --json` shows it."""
    evidence = row.evidence
    return {
        "seq": row.seq,
        "decided_at": row.decided_at,
        "outcome": row.outcome,
        "override": row.override,
        "model": row.model,
        "alias": row.alias,
        "version": row.version,
        "previous_version": row.previous_version,
        "study": row.study_name,
        "trial": row.trial_number,
        **{name: evidence.get(name) for name in FIGURES},
        "simulated": bool(evidence.get("simulated")),
        "reason": evidence.get("reason"),
        "why": row.why,
        "actor": row.actor,
        "decision": str(row.promotion_id),
    }
