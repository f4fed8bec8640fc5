"""Who may do what in the service's database; knows no password and makes no role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from hpo.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCHEMAS = ("public", "hpo")
# The functions of the schema `hpo` that only look; a reader's commands and pages need them.
LOOKING = ("now", "utc_now", "up_since", "seconds")


def close_database(connection: Connection) -> None:
    """Let nobody into the database but its owner and who is let in by name; run by its owner."""
    name = _quoted(connection, str(connection.scalar(text("select current_database()"))))
    connection.execute(text(f"REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC"))


def let_read(connection: Connection, reader: str) -> None:
    """Let a role read all tables, present and future, and do nothing else; run by their owner.

    Raises:
        UsageError: there is no such role.
    """
    if connection.scalar(text("select to_regrole(:r)"), {"r": _quoted(connection, reader)}) is None:
        raise UsageError(
            f"HPO_READER_STORAGE: PostgreSQL knows no role '{reader}'",
            hint="Set HPO_ADMIN_STORAGE too: `hpo provision` then makes it.",
        )
    role = _quoted(connection, reader)
    name = _quoted(connection, str(connection.scalar(text("select current_database()"))))
    within = ", ".join(SCHEMAS)
    looking = ", ".join(f"hpo.{function}" for function in LOOKING)
    for statement in (
        f"GRANT CONNECT ON DATABASE {name} TO {role}",
        # Whatever it had before, by an older version or by hand
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {within} FROM {role}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {within} FROM {role}",
        f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA hpo FROM {role}, PUBLIC",
        f"REVOKE CREATE ON SCHEMA {within} FROM {role}",
        f"GRANT USAGE ON SCHEMA {within} TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {within} TO {role}",
        f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {within} TO {role}",
        f"GRANT EXECUTE ON FUNCTION {looking} TO {role}",
        # What later versions make: tables to be read; functions for nobody but their owner
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {within} GRANT SELECT ON TABLES TO {role}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {within} GRANT SELECT ON SEQUENCES TO {role}",
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    ):
        connection.execute(text(statement))


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)
