"""Tell who is champion, by the ledger and by MLflow's alias, and where the two differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.errors import ChampionError, TrackingError
from hpo.promotion.alias import read_alias_state
from hpo.promotion.evidence import Evidence
from hpo.promotion.ledger import recorded_champion
from hpo.storage.postgres.engine import storage_url

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Row

    from hpo.promotion.alias import AliasState
    from hpo.settings import Settings
    from hpo.studies.spec import Promotion
    from hpo.tracking.registry import Registry, Version

DEFAULT = "champion"  # alias of a model that nothing is recorded of
_UNKNOWN = (
    "version", "trial", "study", "metric", "value", "test_value", "decided_at", "decision",
    "outcome", "why", "actor",
)  # fmt: skip


def alias_of(connection: Connection, model: str) -> str:
    """The alias that a model's champion has, by our record."""
    row = recorded_champion(connection, model)
    return DEFAULT if row is None else str(row.alias)


def champion(
    engine: Engine, settings: Settings, model: str, alias: str | None = None
) -> dict[str, Any] | None:
    """The champion of a registered model, JSON-able; None where there never was one.

    `version` is None after a rollback to none, or where only MLflow knows of a champion.

    Args:
        engine: the database, whose record counts.
        settings: where MLflow is; where it cannot be reached, `mlflow_version` is None and
            `difference` says so.
        model: the registered model.
        alias: of its champion; None: the one that was decided about last.
    """
    with engine.connect() as connection:
        alias = alias or alias_of(connection, model)
        row = recorded_champion(connection, model, alias)
        state, trouble = _alias_state(connection, settings, model, alias)
    shown = None if state is None else state.champion
    if row is None and shown is None:
        return None
    return {
        "model": model,
        "alias": alias,
        **(dict.fromkeys(_UNKNOWN) if row is None else _known(row)),
        "simulated": row is not None and Evidence.from_json(row.evidence).simulated,
        "mlflow_version": None if shown is None else shown.number,
        "difference": trouble,
    }


def _alias_state(
    connection: Connection, settings: Settings, model: str, alias: str
) -> tuple[AliasState | None, str]:
    """How alias and record stand to each other, and their difference in words."""
    try:
        state = read_alias_state(connection, _registry(settings), model, alias)
    except TrackingError as error:
        return None, str(error)
    return state, _difference(state)


def _registry(settings: Settings) -> Registry:
    from hpo.tracking.client import open_client
    from hpo.tracking.registry import Registry

    return Registry(open_client(settings, storage_url(settings)))


def _known(row: Row[Any]) -> dict[str, Any]:
    evidence = Evidence.from_json(row.evidence)
    return {
        "version": row.version,
        "trial": row.trial_number,
        "study": row.study_name,
        "metric": evidence.metric,
        "value": evidence.value,
        "test_value": evidence.test_value,
        "decided_at": row.decided_at,
        "decision": str(row.promotion_id),
        "outcome": row.outcome,
        "why": row.why,
        "actor": row.actor,
    }


def _difference(state: AliasState) -> str:
    """Where MLflow's alias is not what was recorded, in words; "" where it is."""
    record = state.record
    if state.pending is not None:
        return (
            f"the alias '{state.pending.alias}' was moved, and whoever did it was stopped before "
            "it was recorded: the next `hpo finalize` or `hpo rollback` completes it"
        )
    if state.external_change or record is None or record.version is None:
        return state.external_change
    if state.lost:
        return (
            f"MLflow does not hold version {record.version} any more: its records were lost, or "
            f"this is another MLflow; `hpo finalize --study {record.study_name}` makes it again"
        )
    return _renumbered(record, state.champion)


def _renumbered(record: Row[Any], shown: Version | None) -> str:
    if shown is None or shown.number == record.version:
        return ""
    return f"MLflow has it as version {shown.number}, made again after a loss"


def require_alias(engine: Engine, settings: Settings, target: Promotion) -> None:
    """Refuse to begin what an alias moved outside this service would stop in the end.

    Raises:
        ChampionError: it was moved outside this service, and a person must say first what is to be.
        TrackingError: MLflow cannot be reached.
    """
    with engine.connect() as connection:
        state = read_alias_state(connection, _registry(settings), target.model, target.alias)
    if state.external_change and not state.gone:
        raise ChampionError(state.external_change, hint="Settle that first; then promote again.")
