"""Databases on a server that is there already; knows no table."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from hpo.database.engine import make_engine
from hpo.database.failures import explain
from hpo.database.url import database_name, mask
from hpo.errors import DatabaseError

MADE_MEANWHILE = ("42P04", "23505")
NO_RIGHT = "42501"


def ensure_database(url: str, *, beside: str) -> bool:
    """Make the database that `url` names where there is none; False when there was one.

    Args:
        url: the database wanted.
        beside: URL of an existing database on the same server, to ask through.

    Raises:
        DatabaseError: the server cannot be reached, or does not let this user make databases.
    """
    name = database_name(url)
    engine = make_engine(beside, pool_size=1)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            found = text("SELECT 1 FROM pg_database WHERE datname = :name")
            if connection.scalar(found, {"name": name}):
                return False
            quoted = engine.dialect.identifier_preparer.quote_identifier(name)
            connection.execute(text(f"CREATE DATABASE {quoted}"))
            return True
    except DBAPIError as error:
        state = getattr(error.orig, "pgcode", None)
        if state in MADE_MEANWHILE:
            return False
        if state == NO_RIGHT:
            raise DatabaseError(
                f"the user of {mask(beside)} may not make the database '{name}'",
                hint=f"As a superuser: CREATE DATABASE {name} OWNER …; or set MLFLOW_TRACKING_URI.",
            ) from error
        raise explain(error, beside) or error from error
    finally:
        engine.dispose()
