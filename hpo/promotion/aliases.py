"""The one place that moves a champion's alias in MLflow; knows not why it goes.

A move has four steps, under the lock of the registered model, and can be repeated after each:

1. the move is noted in PostgreSQL, with the row of hpo.promotion that will record it,
2. the alias is moved,
3. the alias `previous` is set to the champion before,
4. the caller inserts the row, which removes the note.

Killed before 2, nothing has happened. Killed later, the note explains the alias, and whoever comes
next completes the move. MLflow's own alias keeps no history: one that no note and no row explains
was moved by another hand.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hpo.errors import ChampionError
from hpo.promotion import rows
from hpo.promotion.lock import require_held
from hpo.promotion.settled import Move, Settled, look
from hpo.storage.postgres.queries import query

if TYPE_CHECKING:
    import uuid

    from sqlalchemy import Connection

    from hpo.tracking.registry import Registry, Version

PREVIOUS = "previous"  # alias of the champion before; no study may name its champion so


def settle(
    connection: Connection,
    registry: Registry,
    model: str,
    alias: str,
    mine: uuid.UUID | None = None,
) -> Settled:
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
    found = look(connection, registry, model, alias)
    if found.pending is None or found.pending.decision_id == mine:
        return found
    complete(connection, registry, found.pending)
    return look(connection, registry, model, alias)


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
        own.execute(query("note_move"), note)
    require_held(connection)
    _point(registry, step)


def complete(connection: Connection, registry: Registry, step: Move) -> None:
    """Do what is left of a move that was interrupted, and record it."""
    require_held(connection)
    _point(registry, step)
    # Committed at once: the row removes the note, and the next move writes one in its place.
    with connection.engine.begin() as own:
        rows.write(own, step.row)


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
