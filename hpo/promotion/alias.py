"""Move a champion's alias in MLflow, and tell whether it is where the ledger says.

A move has four steps, under the lock of the registered model, and can be repeated after each:

1. the move is noted in PostgreSQL, with the row of hpo.promotion that will record it,
2. the alias is moved,
3. the alias `previous` is set to the champion before,
4. the caller inserts the row, which removes the note.

Killed before step 2, nothing has happened. Killed later, the note explains the alias, and whoever
comes next completes the move. MLflow's own alias keeps no history: one that no note and no row
explains was moved outside this service.
"""

from __future__ import annotations

import json
import shlex
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.errors import ChampionError
from hpo.promotion import ledger
from hpo.promotion.ledger import made_by, recorded_champion, recorded_version
from hpo.promotion.lock import require_held
from hpo.studies.names import PREVIOUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Row

    from hpo.tracking.registry import Registry, Version


@dataclass(frozen=True, kw_only=True)
class Move:
    """An alias that goes from one version to another, and the row that records it.

    Attributes:
        model: the registered model.
        alias: of its champion.
        to: the version's number; None: the alias is removed.
        before: the champion's version until then, which gets the alias `previous`; None for none.
        decision_id: the row's name.
        row: the row of hpo.promotion, as `rows.row_of` makes it.
    """

    model: str
    alias: str
    to: int | None
    before: int | None
    decision_id: uuid.UUID
    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AliasState:
    """How an alias and its record stand to each other.

    Attributes:
        champion: the version that MLflow's alias points to; None where there is none.
        record: our record's last word about the champion; None where it has none.
        shown: the champion on record as MLflow holds it, whatever its number there.
        pending: a move of ours that reached the alias and not the record.
        external_change: what was done outside this service to the alias or its version, and what
            mends it, as a sentence without its full stop; "" when nothing.
        gone: whether what it did was to delete the champion's version.
        lost: whether MLflow holds nothing of the model: its records were lost, or it is another.
    """

    champion: Version | None
    record: Row[Any] | None
    shown: Version | None = None
    pending: Move | None = None
    external_change: str = ""
    gone: bool = False
    lost: bool = False


def read_alias_state(
    connection: Connection, registry: Registry, model: str, alias: str
) -> AliasState:
    """How the alias and its record stand to each other.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    record = recorded_champion(connection, model, alias)
    champion = registry.champion(model, alias)
    pending = _pending(connection, model, alias, record)
    if pending is not None and pending.to == (champion and champion.number):
        return AliasState(champion=champion, record=record, pending=pending)
    if is_same(record, champion):
        return AliasState(champion=champion, record=record, shown=champion)
    shown = None if record is None else recorded_version(registry, record)
    if champion is not None:
        text = _moved(champion, alias, record, shown)
        return AliasState(champion=champion, record=record, shown=shown, external_change=text)
    if shown is not None:
        return AliasState(
            champion=None, record=record, shown=shown, external_change=_removed(shown, alias)
        )
    if record is None or not registry.has(model):
        return AliasState(champion=None, record=record, lost=True)
    return AliasState(champion=None, record=record, external_change=_deleted(record), gone=True)


def is_same(record: Row[Any] | None, champion: Version | None) -> bool:
    """Whether a version is the champion of our record, also under another number after a loss."""
    if record is None or record.version is None:
        return champion is None
    if champion is None:
        return False
    decision = made_by(record)
    if decision is None:
        return champion.decision is None and champion.number == record.version
    return champion.decision == decision


def command(model: str, alias: str, to: int | str | None = None) -> str:
    """`hpo rollback` with these words, as one types it."""
    words = ["hpo", "rollback", "--model", shlex.quote(model), "--alias", shlex.quote(alias)]
    words += [] if to is None else ["--to", str(to)]
    return f"`{' '.join(words)} --why TEXT`"


def _pending(
    connection: Connection, model: str, alias: str, record: Row[Any] | None
) -> Move | None:
    """The alias's noted move; None where there is none, or the record has gone on without it."""
    note = ledger.noted_move(connection, model, alias)
    if note is None or note.after_id != (record and record.promotion_id):
        return None
    return Move(
        model=model,
        alias=alias,
        to=note.to_version,
        before=note.before_version,
        decision_id=uuid.UUID(str(note.promotion_id)),
        row=note.promotion,
    )


def _moved(champion: Version, alias: str, record: Row[Any] | None, shown: Version | None) -> str:
    """Words for an alias at a version that is not the champion on record, which is `shown`."""
    model, accept = champion.model, command(champion.model, alias, champion.number)
    moved = f"the alias '{alias}' of {model} was moved to {_named(champion)} outside this service"
    if record is None:
        return f"{moved}, nothing is recorded of the model. {accept} accepts it"
    if record.version is None:
        none = command(model, alias, "none")
        return (
            f"{moved}; on record there is no champion. {accept} accepts it, {none} removes it again"
        )
    if shown is None:
        gone = f"version {record.version}, the champion on record, is gone"
        return f"{moved}; {gone}. {accept} accepts it"
    back = command(model, alias, shown.number)
    return (
        f"{moved}; the champion on record is version {shown.number}. {accept} accepts it, "
        f"{back} puts it back"
    )


def _removed(shown: Version, alias: str) -> str:
    back, accept = command(shown.model, alias, shown.number), command(shown.model, alias, "none")
    return (
        f"MLflow has no alias '{alias}' of {shown.model}: it was removed outside this service; the "
        f"champion on record is version {shown.number}. {back} puts it back, {accept} accepts it"
    )


def _deleted(record: Row[Any]) -> str:
    again = ""
    if made_by(record) is not None:
        again = f"`hpo finalize --study {shlex.quote(record.study_name)}` makes it again, "
    return (
        f"version {record.version} of {record.model}, the champion on record, was deleted in "
        f"MLflow: {again}{command(record.model, record.alias)} goes back to the one before"
    )


def _named(version: Version) -> str:
    """A version with the trial that it was made of, where its tags say."""
    study, trial = version.tags.get("hpo.study"), version.tags.get("hpo.trial")
    return f"version {version.number}" + (f" (trial {trial} of {study})" if study else "")


def complete_pending_move(
    connection: Connection,
    registry: Registry,
    model: str,
    alias: str,
    mine: uuid.UUID | None = None,
) -> AliasState:
    """How the alias and its record stand, after the move that another was killed in is completed.

    Args:
        connection: holds the model's lock.
        registry: where the alias is.
        model: the registered model.
        alias: of its champion.
        mine: a decision whose interrupted move is left `pending`: the caller completes it.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    found = read_alias_state(connection, registry, model, alias)
    if found.pending is None or found.pending.decision_id == mine:
        return found
    complete(connection, registry, found.pending)
    return read_alias_state(connection, registry, model, alias)


def move(connection: Connection, registry: Registry, step: Move) -> None:
    """Move the alias, and `previous` after it; the caller inserts the row then.

    Raises:
        ChampionError: the version that it should point to does not exist.
        TrackingError: MLflow cannot be reached.
        DatabaseError: the lock was lost.
    """
    note = {
        "model": step.model, "alias": step.alias, "promotion_id": str(step.decision_id),
        "to_version": step.to, "before_version": step.before,
        "promotion": json.dumps(dict(step.row), allow_nan=False),
    }  # fmt: skip
    # Committed at once, on a connection of its own: it must be there when this process is not.
    with connection.engine.begin() as own:
        ledger.note_move(own, note)
    require_held(connection)
    _point(registry, step)


def complete(connection: Connection, registry: Registry, step: Move) -> None:
    """Do what is left of a move that was interrupted, and record it."""
    require_held(connection)
    _point(registry, step)
    # Committed at once: the row removes the note, and the next move writes one in its place.
    with connection.engine.begin() as own:
        ledger.write(own, step.row)


def put_back(connection: Connection, registry: Registry, version: Version, alias: str) -> None:
    """Let the alias point to a version that the record holds to be champion; there is no new row.

    For a version that was made again after MLflow lost it.
    """
    require_held(connection)
    registry.move_alias(version, alias)


def _point(registry: Registry, step: Move) -> None:
    if step.to is None:
        registry.remove_alias(step.model, step.alias)
    else:
        target = registry.get(step.model, step.to)
        if target is None:
            raise ChampionError(f"MLflow has no version {step.to} of {step.model}")
        registry.move_alias(target, step.alias)
    if step.before == step.to:
        return
    before = None if step.before is None else registry.get(step.model, step.before)
    if before is None:
        registry.remove_alias(step.model, PREVIOUS)
    else:
        registry.move_alias(before, PREVIOUS)
