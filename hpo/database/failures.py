"""What PostgreSQL's errors mean: lost, passing or final, and in plain words; opens nothing."""

from __future__ import annotations

import re

import psycopg2
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.database.refusals import refusal
from hpo.errors import DatabaseError, HpoError, StorageFullError

DISK_FULL = "53100"
# The server ended the connection: shut down, crashed, starting up, or idle for too long.
LOST_STATES = ("57P01", "57P02", "57P03", "57P05", "25P03")
# Nothing is wrong with the statement: it will do a little later. No connection is free;
# a serialisation failure; a deadlock.
PASSING_STATES = ("53300", "40001", "40P01")


_CHECK_URL = "Check the URL in HPO_STORAGE."
_CHECK_WAY = "Check host, port and firewall between here and there."
_OWNERS_URL = (
    "Put the URL of the role that owns it into HPO_STORAGE; `hpo provision` with "
    "HPO_ADMIN_STORAGE makes that role and gives it its rights. "
)
_FEWER = "End other clients, or raise its max_connections."

# pattern of the error's text in lower case -> (words after "PostgreSQL at HOST:PORT", hint).
# The text is all there is: in psycopg2 an error while connecting carries no SQLSTATE.
_FINAL = {  # trying again cannot help
    "password authentication failed": (
        "refuses user '{user}': wrong user name or password",
        "Check user and password in HPO_STORAGE.",
    ),
    "no password supplied": (
        "wants a password for user '{user}'",
        "Write it into HPO_STORAGE: postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    ),
    "permission denied for database": (
        "gives user '{user}' no right to '{database}'",
        _OWNERS_URL + "Or, as its owner: GRANT CONNECT, CREATE ON DATABASE {database} TO {user};",
    ),
    "no pg_hba.conf entry.*no encryption": (
        "does not let user '{user}' in from this machine without encryption",
        "Add ?sslmode=require to HPO_STORAGE, or a line for it to the server's pg_hba.conf.",
    ),
    "no pg_hba.conf entry": (
        "does not let user '{user}' in from this machine",
        "Add a line for it to the server's pg_hba.conf.",
    ),
    "is not permitted to log in": (
        "does not let the role '{user}' log in",
        "As a superuser: ALTER ROLE {user} LOGIN;",
    ),
    'role ".*" does not exist': ("knows no user '{user}'", _CHECK_URL),
    'database ".*" does not exist': (
        "has no database '{database}'",
        "Create it: `createdb {database}`, or name another one in HPO_STORAGE.",
    ),
    "ssl was required": (
        "offers no encryption, which sslmode asks for",
        "Leave sslmode out of HPO_STORAGE, or turn SSL on at the server.",
    ),
    "certificate verify failed": (
        "shows a certificate that the authorities in sslrootcert do not vouch for",
        "Name the file of its own authority: HPO_STORAGE=…?sslmode=verify-full&sslrootcert=FILE",
    ),
    'root certificate file ".*" does not exist': (
        "is to be verified, but the file that sslrootcert names does not exist",
        "Add &sslrootcert=FILE, the certificate of the server's authority, to HPO_STORAGE.",
    ),
    "server certificate for .* does not match host name": (
        "shows a certificate for another host's name",
        "Use the name that stands in its certificate, or sslmode=verify-ca.",
    ),
}
_PASSING = {
    "too many connections for": (
        "has no connection left for user '{user}'",
        "End other clients, or raise the CONNECTION LIMIT of the role or the database.",
    ),
    "too many clients|remaining connection slots": ("has no connection left", _FEWER),
    "could not translate host name": ("cannot be found: unknown host '{host}'", _CHECK_URL),
    "connection refused": (
        "refuses connections: nothing listens there",
        "Start the server, or check host and port in HPO_STORAGE.",
    ),
    "timeout expired|timed out": ("does not answer in time", _CHECK_WAY),
    "no route to host|network is unreachable": ("cannot be reached from this machine", _CHECK_WAY),
    "starting up": ("is starting up", "Try again in a moment."),
    "shutting down": ("is shutting down", "Start it again."),
    "closed the connection|eof detected|already closed|administrator command": (
        "ended the connection",
        "See that it runs, then try again.",
    ),
}


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
    if isinstance(error, PoolTimeoutError):
        return True
    return is_lost(error) or _state(_cause(error)) in PASSING_STATES


def explain(error: BaseException, url: str) -> HpoError | None:
    """The error in plain words, without any password; None when it is the statement's own fault.

    Args:
        error: SQLAlchemy's or psycopg2's.
        url: the URL that was used.
    """
    cause = _cause(error)
    parts = make_url(url)
    where = f"PostgreSQL at {parts.host or 'localhost'}:{parts.port or 5432}"
    if isinstance(error, PoolTimeoutError):
        return DatabaseError(
            f"every connection that this process may have to {where} is in use",
            hint="Something in it holds them for too long: end it and start it again; its trial "
            "goes on from the last checkpoint.",
        )
    if _state(cause) == DISK_FULL:
        return StorageFullError(
            f"{where} has no space left on its device",
            hint="Free some space on the database server, then try again.",
        )
    if isinstance(cause, psycopg2.Error):
        asked = getattr(error, "statement", None) or ""
        if refused := refusal(cause, asked, parts.username or "", where):
            return refused
    if not (is_passing(error) or _is_final(cause)):
        return None
    words, hint = _find(_FINAL | _PASSING, cause) or ("does not answer: {error}", _CHECK_URL)
    names = {
        "user": parts.username or "",
        "host": parts.host or "",
        "database": parts.database or "",
        "error": next(iter(str(cause).strip().splitlines()), "no reason given"),
    }
    return DatabaseError(f"{where} {words.format(**names)}", hint=hint.format(**names))


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def _state(error: BaseException | None) -> str | None:
    return error.pgcode if isinstance(error, psycopg2.Error) else None


def _is_final(error: BaseException | None) -> bool:
    connecting = isinstance(error, psycopg2.OperationalError) and _state(error) is None
    return connecting and _find(_FINAL, error) is not None


def _find(
    meanings: dict[str, tuple[str, str]], error: BaseException | None
) -> tuple[str, str] | None:
    text = str(error).lower()
    return next((said for pattern, said in meanings.items() if re.search(pattern, text)), None)
