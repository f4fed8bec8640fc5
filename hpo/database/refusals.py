"""What a role may not do: which right, on what, and what grants it; opens nothing.

PostgreSQL names the object and not the right, which follows from the statement.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpo.errors import DatabaseError

if TYPE_CHECKING:
    import psycopg2

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
