"""Write each decision to hpo.promotion once, and read the rows as history and as champions."""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.errors import TrackingError
from hpo.promotion.decision import Decision
from hpo.promotion.evidence import Evidence
from hpo.storage.postgres.queries import Queries
from hpo.studies.status import champion_row
from hpo.studies.store import optuna_id

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection, Row

    from hpo.studies.store import Study
    from hpo.tracking.registry import Registry, Version

SQL = Queries(__name__)


def recorded(connection: Connection, promotion_id: uuid.UUID) -> Decision | None:
    """The decision of that name; None when it has not been recorded."""
    row = _by_id(connection, promotion_id)
    return None if row is None else Decision.from_row(row)


def ping(connection: Connection) -> None:
    """Look for a row that does not exist: fails where the connection is gone."""
    _by_id(connection, None)


def _by_id(connection: Connection, promotion_id: uuid.UUID | None) -> Row[Any] | None:
    name = None if promotion_id is None else str(promotion_id)
    return connection.execute(SQL["promotion_by_id"], {"promotion_id": name}).one_or_none()


def promotion_of(connection: Connection, decision: str) -> Row[Any] | None:
    """The latest row that promoted the version made for a decision; None where there is none.

    Args:
        connection: the database.
        decision: as the version's tag says; compared as text, as a tag is what anybody typed.
    """
    return connection.execute(SQL["promotion_by_tag"], {"decision": decision}).one_or_none()


def is_known(connection: Connection, study: Study, trial: int, before: int) -> bool:
    """Whether a trial had been decided about before the row of that `seq`."""
    key = {"study_id": study.study_id, "trial": trial, "seq": before}
    return bool(connection.scalar(SQL["promotion_known"], key))


def promoting_study(connection: Connection, model: str) -> Row[Any] | None:
    """Id and name of the newest study that promotes to a model; None where none does."""
    return connection.execute(SQL["promoting_study"], {"model": model}).one_or_none()


def note_move(connection: Connection, note: Mapping[str, Any]) -> None:
    """Note what is about to be done to an alias; an earlier note was never acted on."""
    connection.execute(SQL["note_move"], note)


def noted_move(connection: Connection, model: str, alias: str) -> Row[Any] | None:
    """What was about to be done to an alias; None where that was recorded, or nothing was."""
    return connection.execute(SQL["noted_move"], {"model": model, "alias": alias}).one_or_none()


def try_lock(connection: Connection, model: str) -> bool:
    """Whether this transaction, which may then last, now holds a registered model's lock."""
    connection.execute(SQL["unhurried"])
    return bool(connection.scalar(SQL["try_promotion_lock"], {"model": model}))


def insert(
    connection: Connection, study: Study, promotion_id: uuid.UUID, decision: Decision
) -> None:
    """Record a decision; one of that name stays as it is."""
    write(connection, row_of(study, promotion_id, decision))


def row_of(study: Study, promotion_id: uuid.UUID, decision: Decision) -> dict[str, Any]:
    """The decision as a row, JSON-able: what `write` takes, now or after an interruption."""
    return row_of_study(study.study_id, promotion_id, decision)


def row_of_study(study_id: int, promotion_id: uuid.UUID, decision: Decision) -> dict[str, Any]:
    """The decision as a row, for a study of which only Optuna's id is known: it may be gone."""
    return {
        "promotion_id": str(promotion_id), "study_id": study_id,
        "study_name": decision.study, "outcome": decision.outcome.value,
        "model": decision.model, "alias": decision.alias, "trial_number": decision.trial,
        "version": decision.version, "previous_version": decision.previous_version,
        "evidence": decision.evidence.to_json(), "override": decision.override, "why": decision.why,
        "actor": decision.actor,
    }  # fmt: skip


def write(connection: Connection, row: Mapping[str, Any]) -> None:
    """Insert a row, which ends the move of an alias that it was noted for; once for each name."""
    evidence = json.dumps(row["evidence"], allow_nan=False)
    connection.execute(SQL["insert_promotion"], {**row, "evidence": evidence})


def made_by(row: Row[Any] | None) -> str | None:
    """The decision that the version of a champion's row was made for.

    The version has it as a tag, so it is known again under another number. It is the promotion's
    own name unless the evidence says that the version had been made for an earlier one. None for
    a version registered outside this service, and where there is no champion.
    """
    if row is None or row.version is None:
        return None
    own = row.promotion_id if row.outcome == "promoted" else None
    decision = Evidence.from_json(row.evidence).decision or own
    return None if decision is None else str(decision)


def actor() -> str:
    """The person at this machine, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class ChampionPeriod:
    """A version that is, or was, champion.

    Attributes:
        version: its number when it became champion.
        decision: that the version was made for, which knows it again under another number; None
            for one registered outside this service.
    """

    version: int
    decision: str | None

    def is_of(self, version: int, decision: str | None) -> bool:
        """Whether the period is that version's."""
        if self.decision is None or decision is None:
            return (self.version, self.decision) == (version, decision)
        return self.decision == decision


def history(connection: Connection, model: str, alias: str | None = None) -> list[Row[Any]]:
    """Every decision about a registered model, the earliest first."""
    parameters = {"model": model, "alias": alias}
    return list(connection.execute(SQL["promotions_of_model"], parameters).all())


def succession(rows: Iterable[Row[Any]]) -> list[ChampionPeriod]:
    """The champions that a rollback can go through, the latest last; empty: there was none.

    What was rolled back is not in it: after A, B and a rollback to A, nothing leads back to B. A
    time without a champion leaves those before it where they were.
    """
    line: list[ChampionPeriod] = []
    for row in rows:
        if row.outcome == "promoted":
            if row.previous_version is not None and not line:
                line = [ChampionPeriod(row.previous_version, None)]
            line = _until(line, ChampionPeriod(row.version, made_by(row)))
        elif row.outcome == "rolled_back":
            line = line[:-1] if row.version is None else _until(
                line, ChampionPeriod(row.version, made_by(row))
            )  # fmt: skip
    return line


def _until(line: list[ChampionPeriod], period: ChampionPeriod) -> list[ChampionPeriod]:
    """The line with this one last, which may be in it already."""
    for index in reversed(range(len(line))):
        if line[index].is_of(period.version, period.decision):
            return line[: index + 1]
    return [*line, period]


def entry(row: Row[Any]) -> dict[str, Any]:
    """A row as `hpo champion --history --json` shows it."""
    evidence = Evidence.from_json(row.evidence)
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
        "metric": evidence.metric,
        "value": evidence.value,
        "test_value": evidence.test_value,
        "simulated": evidence.simulated,
        "reason": evidence.reason or None,
        "why": row.why,
        "actor": row.actor,
        "decision": str(row.promotion_id),
    }


def recorded_champion(
    connection: Connection, model: str, alias: str | None = None
) -> Row[Any] | None:
    """The last word about the model's champion by our own record, a rollback to none included.

    Without an alias: that of whichever was decided about last.
    """
    return champion_row(connection, model, alias)


def recorded_version(registry: Registry, row: Row[Any]) -> Version | None:
    """The version of a champion's row in MLflow, whatever its number; None when it is not there."""
    decision = made_by(row)
    if decision is not None:
        return registry.find(decision, row.model)
    return None if row.version is None else registry.get(row.model, row.version)


def require_restored(
    connection: Connection, registry: Registry, study: Study, model: str, alias: str | None = None
) -> Row[Any] | None:
    """Refuse to promote past a champion that MLflow lost, while it can be made again.

    A version that is there and has no alias was taken back by a person, which is no loss.

    Returns:
        The lost champion where it cannot or need not: of a study that was deleted, or of `study`
        itself, whose trials have been compared already.

    Raises:
        TrackingError: it is another study's, which can make it again.
    """
    row = recorded_champion(connection, model, alias)
    if row is None or row.version is None or recorded_version(registry, row) is not None:
        return None
    if row.study_name == study.name or made_by(row) is None:
        return row
    if optuna_id(connection, row.study_name) is None:
        return row
    raise TrackingError(
        f"MLflow does not hold {model} version {row.version} any more, the champion that "
        f"'{row.study_name}' made: its records were lost, or this is another MLflow",
        hint=f"`hpo finalize --study {row.study_name}` makes it again; then run this again.",
    )
