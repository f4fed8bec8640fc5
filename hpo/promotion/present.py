"""Who is champion now, by our record and by MLflow's alias, and where the two differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.database.engine import storage_url
from hpo.errors import TrackingError
from hpo.promotion.lost import recorded_champion

if TYPE_CHECKING:
    from sqlalchemy import Engine, Row

    from hpo.settings import Settings
    from hpo.tracking.registry import Registry, Version


def champion(engine: Engine, settings: Settings, model: str, alias: str) -> dict[str, Any] | None:
    """The champion of a registered model, JSON-able; None where there is none.

    Args:
        engine: the database, whose record counts.
        settings: where MLflow is; where it cannot be reached, `mlflow_version` is None and
            `difference` says so.
        model: the registered model.
        alias: taken where nothing is recorded of the model.
    """
    with engine.connect() as connection:
        row = recorded_champion(connection, model)
    alias = alias if row is None else row.alias
    try:
        registry = _registry(settings)
        shown = registry.champion(model, alias)
        trouble = "" if shown is not None else _loss(row, registry)
    except TrackingError as error:
        shown, trouble = None, str(error)
    if row is None and shown is None:
        return None
    known = (
        dict.fromkeys(("version", "trial", "study", "metric", "value", "decided_at", "decision"))
        if row is None
        else _known(row)
    )
    simulated = row is not None and bool(row.evidence.get("simulated"))
    return {
        "model": model,
        "alias": alias,
        **known,
        "simulated": simulated,
        "mlflow_version": None if shown is None else shown.number,
        "difference": trouble or _difference(alias, row, shown),
    }


def _registry(settings: Settings) -> Registry:
    from hpo.tracking.client import open_client
    from hpo.tracking.registry import Registry

    return Registry(open_client(settings, storage_url(settings)))


def _known(row: Row[Any]) -> dict[str, Any]:
    return {
        "version": row.version,
        "trial": row.trial_number,
        "study": row.study_name,
        "metric": row.evidence["metric"],
        "value": row.evidence["value"],
        "decided_at": row.decided_at,
        "decision": str(row.promotion_id),
    }


def _loss(row: Row[Any] | None, registry: Registry) -> str:
    """Whether MLflow lost the recorded champion, in words; "" where it did not."""
    if row is None or registry.find(str(row.promotion_id)) is not None:
        return ""
    return (
        f"MLflow does not hold version {row.version} any more: its records were lost, or this "
        f"is another MLflow; `hpo finalize --study {row.study_name}` makes it again"
    )


def _difference(alias: str, row: Row[Any] | None, shown: Version | None) -> str:
    """Where MLflow's alias is not what was recorded, in words; "" where it is."""
    if row is None:
        return f"MLflow's '{alias}' was set by another hand than this service's"
    if shown is None:
        return f"MLflow has no alias '{alias}': it was removed"
    if shown.decision == str(row.promotion_id) and shown.number != row.version:
        return f"MLflow has it as version {shown.number}, made again after a loss"
    if shown.number != row.version:
        return f"MLflow's '{alias}' was moved to version {shown.number} by another hand"
    if shown.decision != str(row.promotion_id):
        return f"version {shown.number} in MLflow is not the one that was promoted"
    return ""
