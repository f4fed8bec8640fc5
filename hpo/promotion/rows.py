"""Rows of hpo.promotion: written once each, and read again; knows no registry."""

from __future__ import annotations

import getpass
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from hpo.promotion.decision import Decision
from hpo.storage.postgres.queries import query

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from sqlalchemy import Connection, Row

    from hpo.studies.store import Study


def recorded(connection: Connection, promotion_id: uuid.UUID) -> Decision | None:
    """The decision of that name; None when it has not been recorded."""
    row = connection.execute(
        query("promotion_by_id"), {"promotion_id": str(promotion_id)}
    ).one_or_none()
    return None if row is None else Decision.from_row(row)


def insert(
    connection: Connection, study: Study, promotion_id: uuid.UUID, decision: Decision
) -> None:
    """Record a decision; one of that name stays as it is."""
    write(connection, row_of(study, promotion_id, decision))


def row_of(study: Study, promotion_id: uuid.UUID, decision: Decision) -> dict[str, Any]:
    """The decision as a row, JSON-able: what `write` takes, now or after an interruption."""
    return row_of_study(study.study_id, promotion_id, decision)


def row_of_study(study_id: int, promotion_id: uuid.UUID, decision: Decision) -> dict[str, Any]:
    """The same where of the study only Optuna's id is known: it may be gone."""
    return {
        "promotion_id": str(promotion_id), "study_id": study_id,
        "study_name": decision.study, "outcome": decision.outcome.value,
        "model": decision.model, "alias": decision.alias, "trial_number": decision.trial,
        "version": decision.version, "previous_version": decision.previous_version,
        "evidence": decision.evidence, "override": decision.override, "why": decision.why,
        "actor": decision.actor,
    }  # fmt: skip


def write(connection: Connection, row: Mapping[str, Any]) -> None:
    """Insert a row, which ends the move of an alias that it was noted for; once for each name."""
    evidence = json.dumps(row["evidence"], allow_nan=False)
    connection.execute(query("insert_promotion"), {**row, "evidence": evidence})


def made_by(row: Row[Any] | None) -> str | None:
    """The decision that the version of a champion's row was made for.

    The version has it as a tag, so it is known again under another number. It is the promotion's
    own name unless the evidence says that the version had been made for an earlier one. None for
    a version that another hand registered, and where there is no champion.
    """
    if row is None or row.version is None:
        return None
    own = row.promotion_id if row.outcome == "promoted" else None
    decision = row.evidence.get("decision") or own
    return None if decision is None else str(decision)


def actor() -> str:
    """The person at this machine, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
