"""Champions that our record knows and MLflow lost with its database; makes no version itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.errors import TrackingError
from hpo.promotion.rows import made_by
from hpo.storage.postgres.queries import query

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from hpo.studies.store import Study
    from hpo.tracking.registry import Registry, Version


def recorded_champion(
    connection: Connection, model: str, alias: str | None = None
) -> Row[Any] | None:
    """The last word about the model's champion by our own record, a rollback to none included.

    Without an alias: that of whichever was decided about last.
    """
    return connection.execute(query("champion"), {"model": model, "alias": alias}).one_or_none()


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
    if connection.scalar(query("optuna_study"), {"name": row.study_name}) is None:
        return row
    raise TrackingError(
        f"MLflow does not hold {model} version {row.version} any more, the champion that "
        f"'{row.study_name}' made: its records were lost, or this is another MLflow",
        hint=f"`hpo finalize --study {row.study_name}` makes it again; then run this again.",
    )
