"""Create, migrate and check the database's tables, Optuna's and ours, and our functions."""

from __future__ import annotations

import hashlib
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from hpo import __version__
from hpo.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0005"
FIRST = "0005"  # the migrations of earlier revisions, never released, were joined to this one
# Our SQL writes Optuna's tables, so its revision is checked at every start; the contract tests
# read everything back through plain Optuna.
OPTUNA_HEAD = "v3.2.0.a"
LOCK = 0x68706F  # "hpo": one transaction at a time changes the schema or grants rights on it
# The comment on hpo.now() says which functions.sql the database has
_MARK = "functions of hpo-service {version}, sha256 {sha256}"
_MARKED = re.compile(r"functions of hpo-service (?P<version>\d[^ ,]*), ")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


def upgrade(engine: Engine) -> None:
    """Create or migrate Optuna's tables and the schema `hpo`; safe to call at once from many.

    A role that does not own the functions may call it too, and leaves them as they are.

    Raises:
        SchemaError: the database is newer than this code, was never of a release, or holds another
            Optuna's tables.
    """
    with engine.connect() as connection, connection.begin():
        if revisions(connection) == (OPTUNA_HEAD, HEAD) and not _functions_differ(connection):
            return
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": LOCK})
        optuna_revision, revision = revisions(connection)
        _refuse_others(revision)
        if optuna_revision is None:
            _create_optuna_tables(engine)
        else:
            _require_optuna(optuna_revision)
        if revision != HEAD or _functions_differ(connection):
            _replace_functions(connection)
        if revision != HEAD:
            _migrate(connection)
    check(engine)


def check(engine: Engine) -> None:
    """Refuse a database whose tables are not those that this code reads and writes.

    Functions whose bodies alone differ are no reason: whoever runs `upgrade` next replaces them.

    Raises:
        SchemaError: they are missing, older, newer, or Optuna's are of another revision.
    """
    with engine.connect() as connection:
        optuna_revision, revision = revisions(connection)
    _refuse_others(revision)
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


def _refuse_others(revision: str | None) -> None:
    """Refuse what no upgrade of this version mends: a newer schema, and one of before the first."""
    if revision is not None and revision < FIRST:
        raise SchemaError(
            f"the database's schema `hpo` is at {revision}, which was never released; this version "
            f"knows {FIRST} and later",
            hint="Let the version that made it write its studies (`hpo export`), and read them "
            "into a new database (`hpo import`).",
        )
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

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _functions_differ(connection: Connection) -> bool:
    """Whether the database has other functions than this version, and the caller may replace them.

    A version older than the one that wrote them leaves them: it can use them as they are, or the
    revision would not be its own.
    """
    row = connection.execute(
        text(
            "select obj_description(p.oid, 'pg_proc') as mark,"
            "       pg_has_role(p.proowner, 'USAGE') as may"
            "  from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
            " where n.nspname = 'hpo' and p.proname = 'now'"
        )
    ).one_or_none()
    if row is None:
        return True
    found = _MARKED.match(row.mark or "")
    newer = found is not None and _numbers(found["version"]) > _numbers(__version__)
    return bool(row.may) and not newer and row.mark != _mark()


def _replace_functions(connection: Connection) -> None:
    """Run functions.sql and note in the database that it was that file."""
    connection.execute(text("create schema if not exists hpo"))
    # Tables' defaults and triggers call them, so they come first; their bodies name those tables
    connection.execute(text("set local check_function_bodies = off"))
    # The driver's own cursor takes the text as it is; SQLAlchemy would read its percent signs.
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(_functions())
    connection.execute(text(f"comment on function hpo.now() is '{_mark()}'"))


def _functions() -> str:
    return (MIGRATIONS / "functions.sql").read_text(encoding="utf-8")


def _mark() -> str:
    sha256 = hashlib.sha256(_functions().encode()).hexdigest()
    return _MARK.format(version=__version__, sha256=sha256)


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version in their order; what follows them (rc1, .dev0) does not count."""
    return tuple(int(part) for part in _NUMBERS.findall(version)[0].split("."))
