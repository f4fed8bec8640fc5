"""Connect as a server's administrator, and create databases.

An administrator is a superuser or, on a managed server, a role with CREATEROLE and CREATEDB.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import encrypt_password
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from hpo.errors import DatabaseError
from hpo.storage.postgres.engine import make_engine
from hpo.storage.postgres.errors import explain
from hpo.storage.postgres.url import database_name, mask

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = 0x70726F76  # "prov": one provisioning of a server at a time
_BUSY = "55P03"
MAY_SET = 16_00_00  # since this version a member must be let become the other role


class Administrator:
    """Runs statements one by one, each committed at once: databases cannot be made otherwise.

    Identifiers and values go in through psycopg2's own quoting. No statement holds a password:
    `verifier` makes of it, in this process, what the server stores.

    Attributes:
        role: whose connection it is.
        superuser: whether no right can be lacking.
    """

    def __init__(self, connection: Any, url: str) -> None:
        self._connection, self._url = connection, url
        row = self.row(
            "select current_user, rolsuper, rolcreaterole, rolcreatedb"
            "  from pg_roles where rolname = current_user"
        )
        self.role, self.superuser = str(row[0]), bool(row[1])
        self._rights = {"CREATEROLE": bool(row[2]), "CREATEDB": bool(row[3])}

    @property
    def version(self) -> int:
        """The server's version, for instance 160004."""
        return int(self._connection.server_version)

    def require_rights(self) -> None:
        """Refuse an administrator who is none.

        Raises:
            DatabaseError: a right is lacking; the message says which.
        """
        lacking = [] if self.superuser else [n for n, has in self._rights.items() if not has]
        if lacking:
            raise DatabaseError(
                f"the role '{self.role}' of HPO_ADMIN_STORAGE lacks {' and '.join(lacking)}",
                hint=f"As a superuser: ALTER ROLE {self.role} {' '.join(lacking)}; or name another "
                "administrator in HPO_ADMIN_STORAGE.",
            )

    def run(self, statement: str, *, values: dict[str, Any] | None = None, **names: Any) -> None:
        """Run a statement; `{name}` in it is an identifier or a piece of SQL, `%(name)s` a value.

        Raises:
            DatabaseError: the server refused it.
        """
        self._execute(statement, values, names).close()

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._execute(statement, values, {}) as cursor:
            return list(cursor.fetchall())

    def row(self, statement: str, **values: Any) -> tuple[Any, ...]:
        """The only row of a query; () where there is none."""
        return next(iter(self.rows(statement, **values)), ())

    def verifier(self, password: str, role: str) -> str:
        """What the server stores of a password: SCRAM-SHA-256 with a new salt.

        libpq's PQencryptPasswordConn makes it here. So the password is in no statement, and no log
        of the server's can hold it.
        """
        return str(encrypt_password(password, role, self._connection, "scram-sha-256"))

    def _execute(self, statement: str, values: dict[str, Any] | None, names: dict[str, Any]) -> Any:
        composed = sql.SQL(statement).format(
            **{n: sql.Identifier(v) if isinstance(v, str) else v for n, v in names.items()}
        )
        cursor = self._connection.cursor()
        try:
            cursor.execute(composed, values or None)
        except psycopg2.Error as error:
            cursor.close()
            if error.pgcode == _BUSY:
                raise DatabaseError(
                    "another `hpo provision` of this server has not ended",
                    hint="Try again when it has; a higher --wait waits longer for it.",
                ) from error
            raise explain(error, self._url) or DatabaseError(
                f"PostgreSQL refuses: {next(iter(str(error).splitlines()), '')}"
            ) from error
        return cursor


@contextmanager
def administrator(url: str, *, wait_s: float | None = None) -> Iterator[Administrator]:
    """An administrator's connection to the database of `url`.

    Args:
        url: as `normalise` returns it.
        wait_s: how long to wait for another one who provisions this server; None to hold no lock.
            The lock dies with the connection.

    Raises:
        DatabaseError: the server cannot be reached or refuses us, or the other one does not end.
    """
    engine = make_engine(url, pool_size=1)
    try:
        try:
            pooled = engine.raw_connection()
        except (DBAPIError, psycopg2.Error) as error:
            raise explain(error, url) or error from error
        connection: Any = pooled.dbapi_connection
        connection.autocommit = True
        try:
            one = Administrator(connection, url)
            if wait_s is not None:
                one.run("set lock_timeout = %(ms)s", values={"ms": max(1, round(wait_s * 1000))})
                one.run("select pg_advisory_lock(%(key)s)", values={"key": _LOCK})
            yield one
        finally:
            pooled.invalidate()  # closed, not kept: its lock must go
    finally:
        engine.dispose()


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
