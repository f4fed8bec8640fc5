"""What PostgreSQL's errors mean: lost, passing or final, and in plain words; opens nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg2
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from hpo.errors import DatabaseError, HpoError, StorageFullError

DISK_FULL = "53100"
# The server ended the connection: shut down, crashed, starting up, or idle for too long.
LOST_STATES = ("57P01", "57P02", "57P03", "57P05", "25P03")
# Nothing is wrong with the statement: it will do a little later. No connection is free;
# a serialisation failure; a deadlock.
PASSING_STATES = ("53300", "40001", "40P01")


@dataclass(frozen=True)
class _Meaning:
    """What a piece of an error's text says.

    Attributes:
        needle: pattern of the piece, in lower case.
        words: what is wrong, to follow "PostgreSQL at HOST:PORT".
        hint: what mends it.
        final: whether trying again cannot help.
    """

    needle: str
    words: str
    hint: str
    final: bool = False


_CHECK_URL = "Check the URL in HPO_STORAGE."
# Errors while connecting carry no SQLSTATE in psycopg2, so their text is all there is.
_MEANINGS = (
    _Meaning(
        "password authentication failed",
        "refuses user '{user}': wrong user name or password",
        "Check user and password in HPO_STORAGE.",
        final=True,
    ),
    _Meaning(
        "no password supplied",
        "wants a password for user '{user}'",
        "Write it into HPO_STORAGE: postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        final=True,
    ),
    _Meaning(
        "permission denied for database",
        "gives user '{user}' no right to '{database}'",
        "As its owner: GRANT CONNECT, CREATE ON DATABASE {database} TO {user};",
        final=True,
    ),
    _Meaning(
        "no pg_hba.conf entry",
        "does not let user '{user}' in from this machine",
        "Add a line for it to the server's pg_hba.conf.",
        final=True,
    ),
    _Meaning(
        "is not permitted to log in",
        "does not let the role '{user}' log in",
        "As a superuser: ALTER ROLE {user} LOGIN;",
        final=True,
    ),
    _Meaning('role "', "knows no user '{user}'", _CHECK_URL, final=True),
    _Meaning(
        'database "',
        "has no database '{database}'",
        "Create it: `createdb {database}`, or name another one in HPO_STORAGE.",
        final=True,
    ),
    _Meaning(
        "ssl was required",
        "offers no encryption, which sslmode asks for",
        "Leave sslmode out of HPO_STORAGE, or turn SSL on at the server.",
        final=True,
    ),
    _Meaning(
        "too many connections",
        "has no connection left for user '{user}'",
        "End other clients, or raise the role's or the database's CONNECTION LIMIT.",
    ),
    _Meaning(
        "too many clients",
        "has no connection left",
        "End other clients, or raise its max_connections.",
    ),
    _Meaning(
        "remaining connection slots",
        "has no connection left",
        "End other clients, or raise its max_connections.",
    ),
    _Meaning("could not translate host name", "cannot be found: unknown host '{host}'", _CHECK_URL),
    _Meaning(
        "connection refused",
        "refuses connections: nothing listens there",
        "Start the server, or check host and port in HPO_STORAGE.",
    ),
    _Meaning(
        "timeout expired",
        "does not answer in time",
        "Check host, port and firewall between here and there.",
    ),
    _Meaning(
        "no route to host",
        "cannot be reached from this machine",
        "Check host, port and firewall between here and there.",
    ),
    _Meaning("starting up", "is starting up", "Try again in a moment."),
    _Meaning("shutting down", "is shutting down", "Start it again."),
)  # fmt: skip - a table reads best as one


def is_lost(error: BaseException) -> bool:
    """Whether the connection was lost or could not be made, and might be made later."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = _cause(error)
    if not isinstance(cause, psycopg2.Error) or _is_final(cause):
        return False
    state = _state(cause)
    if state is not None:
        return state in LOST_STATES or state.startswith("08")
    # A broken connection has no SQLSTATE. It comes as OperationalError or InterfaceError, and
    # under TLS also as the bare DatabaseError; never as one of its other subclasses.
    return isinstance(cause, (psycopg2.OperationalError, psycopg2.InterfaceError)) or (
        type(cause) is psycopg2.DatabaseError
    )


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may well succeed a little later."""
    return is_lost(error) or _state(_cause(error)) in PASSING_STATES


def explain(error: BaseException, url: str) -> HpoError | None:
    """The error in plain words and without any password; None when it is about neither
    reaching the server nor its disk, and so a fault of the statement.

    Args:
        error: SQLAlchemy's or psycopg2's.
        url: the URL that was used.
    """  # noqa: D205 - one sentence needs two lines
    cause = _cause(error)
    if _state(cause) == DISK_FULL:
        return StorageFullError(
            f"PostgreSQL at {_address(url)} has no space left on its device",
            hint="Free some space on the database server, then try again.",
        )
    if not (is_passing(error) or _is_final(cause)):
        return None
    known = _meaning(cause)
    if known is None:
        last = str(cause).strip().splitlines()[:1] or ["the connection was lost"]
        return DatabaseError(f"PostgreSQL at {_address(url)}: {last[0]}", hint=_CHECK_URL)
    names = _names(url)
    words, hint = known.words.format(**names), known.hint.format(**names)
    return DatabaseError(f"PostgreSQL at {_address(url)} {words}", hint=hint)


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def _state(error: BaseException | None) -> str | None:
    return error.pgcode if isinstance(error, psycopg2.Error) else None


def _meaning(error: BaseException | None) -> _Meaning | None:
    text = str(error).lower()
    return next((known for known in _MEANINGS if re.search(known.needle, text)), None)


def _is_final(error: BaseException | None) -> bool:
    if not isinstance(error, psycopg2.OperationalError) or _state(error) is not None:
        return False
    known = _meaning(error)
    return known is not None and known.final


def _names(url: str) -> dict[str, str]:
    parts = make_url(url)
    return {
        "user": parts.username or "",
        "host": parts.host or "",
        "database": parts.database or "",
    }


def _address(url: str) -> str:
    parts = make_url(url)
    return f"{parts.host or 'localhost'}:{parts.port or 5432}"
