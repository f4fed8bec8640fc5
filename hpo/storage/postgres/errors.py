"""Tell what PostgreSQL's errors mean: lost, passing or final, and which right a role lacks.

For a right that is missing PostgreSQL names the object only; which right it is follows from the
statement that was refused.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg2
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.errors import DatabaseError, HpoError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

NO_RIGHT = "42501"
READ_ONLY = "25006"

_DENIED = re.compile(r"permission denied for (\w[\w ]*?) \"?([^\"\s]+)\"?$")
_NOT_OWNER = re.compile(r"must be owner of (\w[\w ]*?) \"?([^\"\s]+)\"?$")
_WRITES = {
    "INSERT": r"insert\s+into\s+",
    "UPDATE": r"update\s+(?:only\s+)?",
    "DELETE": r"delete\s+from\s+(?:only\s+)?",
    "TRUNCATE": r"truncate\s+(?:table\s+)?",
}
_LOCKS = re.compile(r"\bfor\s+(?:no\s+key\s+)?(?:update|share)\b", re.IGNORECASE)
_CANNOT = re.compile(r"cannot execute (.+) in a read-only transaction")
_RIGHTS = {"sequence": "USAGE", "function": "EXECUTE", "procedure": "EXECUTE", "database": "CREATE"}
_RELATIONS = ("table", "view", "materialized view", "foreign table")
_ANOTHER_ROLE = "or put the URL of the service's own role into HPO_STORAGE"


def refusal(error: psycopg2.Error, statement: str, role: str, where: str) -> DatabaseError | None:
    """The error for a right that is not there; None where it is about something else.

    Args:
        error: as the server raised it.
        statement: what was asked for, as far as it is known.
        role: whose right it is.
        where: the server, for the message.
    """
    if error.pgcode not in (NO_RIGHT, READ_ONLY):
        return None
    # What a function did stands in the context, innermost first, and not in our statement.
    said = f"{error.diag.context or ''}\n{statement}"
    if error.pgcode == READ_ONLY:
        return DatabaseError(
            f"{where}: the role '{role}' may only read here, and {_wanted(error, said)}",
            hint="Put the URL of the service's own role, which owns the studies' database, into "
            "HPO_STORAGE; `hpo provision` makes that role and gives it its rights. On a standby "
            "nobody may write: name the primary server.",
        )
    if denied := _DENIED.search(_first_line(error)):
        return _lacking(denied[1], denied[2], said, role, where)
    if owned := _NOT_OWNER.search(_first_line(error)):
        kind, name = owned.groups()
        return DatabaseError(
            f"{where}: the role '{role}' does not own the {kind} {_full(name, said)}",
            hint="Run `hpo provision` with HPO_ADMIN_STORAGE, which makes the service's role the "
            "owner of its tables.",
        )
    reason = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return DatabaseError(
        f"{where} refuses the role '{role}': {_first_line(error)}{reason}",
        hint="Give it the right as an administrator, or run `hpo provision`.",
    )


def _lacking(kind: str, name: str, said: str, role: str, where: str) -> DatabaseError:
    right, full = _right(kind, name, said), name
    noun = "TABLE" if kind in _RELATIONS else kind.upper()
    if kind not in ("schema", "database"):
        full = _full(name, said)
    grant = f"; or, as the owner: GRANT {right} ON {noun} {full} TO {role};" if right else "."
    return DatabaseError(
        f"{where}: the role '{role}' lacks {right or 'a right'} on the {kind} {full}",
        hint=f"Run `hpo provision`, which gives each role its rights, {_ANOTHER_ROLE}{grant}",
    )


def _wanted(error: psycopg2.Error, said: str) -> str:
    """What a transaction that only reads was asked to write."""
    cannot = _CANNOT.search(_first_line(error))
    what = cannot[1] if cannot else "this"
    verb = _WRITES.get(what, r"\bfrom\s+" if what.startswith("SELECT FOR") else None)
    written = verb and re.search(rf"{verb}([\w\".]+)", said, re.IGNORECASE)
    if not written:
        return f"{what} writes"
    right = what if what in _WRITES else "SELECT, UPDATE"
    table = written[1].replace('"', "")
    return f"{right} on the table {table} is needed"


def _right(kind: str, name: str, said: str) -> str:
    if kind == "schema":
        return "CREATE" if re.search(r"\bcreate\s", said, re.IGNORECASE) else "USAGE"
    if kind not in _RELATIONS:
        return _RIGHTS.get(kind, "")
    named = rf"(?:\"?\w+\"?\.)?\"?{re.escape(name)}\b"
    written = [
        right
        for right, verb in _WRITES.items()
        if re.search(rf"\b{verb}{named}", said, re.IGNORECASE)
    ]
    if not written and re.search(named, said) and _LOCKS.search(said):
        return "SELECT, UPDATE"
    if written:
        return ", ".join(written)
    return "SELECT" if re.search(named, said) else ""  # within a function that keeps its text


def _full(name: str, said: str) -> str:
    """The name with its schema, where the statement has it."""
    found = re.search(rf"\b(\w+)\.\"?{re.escape(name)}\b", said)
    return f"{found[1]}.{name}" if found else name


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")


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


@contextmanager
def explained(engine: Engine) -> Iterator[None]:
    """Say in plain words what PostgreSQL refused within the block, or that it went away.

    Raises:
        DatabaseError: the connection was lost, or the user may not do this.
    """
    try:
        yield
    except DBAPIError as error:
        meaning = explain(error, str(engine.url))
        if meaning is None:
            raise
        raise meaning from error


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
