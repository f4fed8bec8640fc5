"""Champions that our record knows and MLflow lost with its database; makes no version itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.database.queries import query
from hpo.errors import TrackingError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from hpo.study import Study
    from hpo.tracking.registry import Registry


def recorded_champion(connection: Connection, model: str) -> Row[Any] | None:
    """The model's champion by our own record."""
    return connection.execute(query("champion"), {"model": model}).one_or_none()


def require_restored(
    connection: Connection, registry: Registry, study: Study, model: str
) -> Row[Any] | None:
    """Refuse to promote past a champion that MLflow lost, while it can be made again.

    A version that is there and has no alias was taken back by a person, which is no loss.

    Returns:
        The lost champion where it cannot or need not: of a study that was deleted, or of `study`
        itself, whose trials have been compared already.

    Raises:
        TrackingError: it is another study's, which can make it again.
    """
    row = recorded_champion(connection, model)
    if row is None or registry.find(str(row.promotion_id)) is not None:
        return None
    if row.study_name == study.name:
        return row
    if connection.scalar(query("optuna_study"), {"name": row.study_name}) is None:
        return row
    raise TrackingError(
        f"MLflow does not hold {model} version {row.version} any more, the champion that "
        f"'{row.study_name}' made: its records were lost, or this is another MLflow",
        hint=f"`hpo finalize --study {row.study_name}` makes it again; then run this again.",
    )
