"""Create, migrate and check the database's tables, Optuna's and ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from hpo.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

HEAD = "0005"
# Our SQL writes Optuna's tables, so its revision is checked at every start; the contract tests
# read everything back through plain Optuna.
OPTUNA_HEAD = "v3.2.0.a"
_LOCK = 0x68706F  # "hpo": one upgrade at a time


def upgrade(engine: Engine) -> None:
    """Create or migrate Optuna's tables and the schema `hpo`; safe to call at once from many.

    Raises:
        SchemaError: the database is newer than this code, or holds another Optuna's tables.
    """
    with engine.connect() as connection, connection.begin():
        if revisions(connection) == (OPTUNA_HEAD, HEAD):
            return
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        optuna_revision, revision = revisions(connection)
        _refuse_newer(revision)
        if optuna_revision is None:
            _create_optuna_tables(engine)
        else:
            _require_optuna(optuna_revision)
        _migrate(connection)
    check(engine)


def check(engine: Engine) -> None:
    """Refuse a database whose tables are not those that this code reads and writes.

    Raises:
        SchemaError: they are missing, older, newer, or Optuna's are of another revision.
    """
    with engine.connect() as connection:
        optuna_revision, revision = revisions(connection)
    _refuse_newer(revision)
    if revision != HEAD:
        raise SchemaError(
            f"the database's schema `hpo` is at {revision or 'nothing'}, this version needs {HEAD}",
            hint="Run `hpo up --no-mlflow --no-dashboard`, which brings it to this version.",
        )
    _require_optuna(optuna_revision)


def revisions(connection: Connection) -> tuple[str | None, str | None]:
    """Revisions of (Optuna's tables, the schema `hpo`); None where there is none."""
    return _revision(connection, "public.alembic_version"), _revision(connection, "hpo.version")


def _revision(connection: Connection, table: str) -> str | None:
    if connection.scalar(text("select to_regclass(:table)"), {"table": table}) is None:
        return None
    value = connection.scalar(text(f"select version_num from {table}"))  # noqa: S608 - our own two names
    return None if value is None else str(value)


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision > HEAD:
        raise SchemaError(
            f"the database's schema `hpo` is at {revision}, newer than the {HEAD} of this version",
            hint="Install the newer hpo-service on this machine: "
            "`pip install --upgrade hpo-service`.",
        )


def _require_optuna(revision: str | None) -> None:
    if revision != OPTUNA_HEAD:
        raise SchemaError(
            f"Optuna's tables are at {revision or 'nothing'}, this version writes {OPTUNA_HEAD}",
            hint="Install the Optuna release of constraints.txt, or run `optuna storage upgrade`.",
        )


def _create_optuna_tables(engine: Engine) -> None:
    from optuna.storages import RDBStorage

    storage = RDBStorage(engine.url.render_as_string(hide_password=False))
    storage.engine.dispose()


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    connection.execute(text("create schema if not exists hpo"))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
