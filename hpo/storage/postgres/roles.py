"""Create login roles and the databases that they own, or change them to what is asked.

A second run changes nothing but the stored form of the password, which has a new salt.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg2 import sql

from hpo.errors import DatabaseError, UsageError
from hpo.storage.postgres.admin import MAY_SET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpo.storage.postgres.admin import Administrator

# What none of ours may do; pg_roles' column -> the word that takes it away
_TOO_MUCH = {
    "rolcreatedb": "NOCREATEDB",
    "rolcreaterole": "NOCREATEROLE",
    "rolreplication": "NOREPLICATION",
    "rolbypassrls": "NOBYPASSRLS",
}
READER_SETTINGS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "60s",  # optuna-dashboard's page of 10,000 trials takes six
    "idle_in_transaction_session_timeout": "60s",
}


@dataclass(frozen=True, kw_only=True)
class Login:
    """One role as its URL has it.

    Attributes:
        variable: the environment variable that the URL stands in.
        role: its name.
        password: what it shall be from now on.
        database: the database that the URL names.
        url: the URL as `normalise` returns it.
    """

    variable: str
    role: str
    password: str = field(repr=False)
    database: str
    url: str = field(repr=False)


def ensure_role(admin: Administrator, login: Login) -> bool:
    """Make the role, or let it be what `login` says; whether it was made.

    Raises:
        UsageError: it is a superuser.
        DatabaseError: the administrator may not do it.
    """
    columns = ", ".join(_TOO_MUCH)
    found = admin.row(
        f"select rolsuper, {columns} from pg_roles where rolname = %(role)s",  # noqa: S608 - our own names
        role=login.role,
    )
    if found and found[0]:
        raise UsageError(
            f"{login.variable}: the role '{login.role}' is a superuser, which no part of the "
            "service may be",
            hint=f"Name another role in {login.variable}; it is made where it is missing.",
        )
    words = [
        "LOGIN",
        *(word for word, has in zip(_TOO_MUCH.values(), found[1:], strict=False) if has),
    ]
    admin.run(
        f"{'ALTER' if found else 'CREATE'} ROLE {{role}} {' '.join(words)} PASSWORD %(verifier)s",
        values={"verifier": admin.verifier(login.password, login.role)},
        role=login.role,
    )
    return not found


def set_role(admin: Administrator, role: str, settings: Mapping[str, str]) -> None:
    """Let each session of the role begin with these settings."""
    for name, value in settings.items():
        admin.run(
            "ALTER ROLE {role} SET {name} = %(value)s",
            values={"value": value},
            role=role,
            name=name,
        )


def refuse_memberships(admin: Administrator, login: Login) -> None:
    """Refuse a role that has another one's rights beside its own.

    Raises:
        UsageError: it is a member of others.
    """
    others = [
        str(row[0])
        for row in admin.rows(
            "select r.rolname from pg_auth_members m join pg_roles r on r.oid = m.roleid"
            " where m.member = (select oid from pg_roles where rolname = %(role)s) order by 1",
            role=login.role,
        )
    ]
    if others:
        raise UsageError(
            f"{login.variable}: the role '{login.role}' has the rights of {', '.join(others)} too",
            hint=f"As an administrator: REVOKE {', '.join(others)} FROM {login.role};",
        )


def ensure_owned_database(admin: Administrator, login: Login) -> bool:
    """Make the login's database, or let its role own it; whether it was made.

    Raises:
        DatabaseError: the administrator may not do it.
    """
    found = admin.row(
        "select pg_get_userbyid(datdba) from pg_database where datname = %(name)s",
        name=login.database,
    )
    if found and found[0] == login.role:
        return False
    with become(admin, login.role):
        if found:
            admin.run(
                "ALTER DATABASE {database} OWNER TO {role}",
                database=login.database,
                role=login.role,
            )
        else:
            admin.run(
                "CREATE DATABASE {database} OWNER {role}", database=login.database, role=login.role
            )
    return not found


def give_back_database(admin: Administrator, login: Login) -> bool:
    """Give the owner of the login's database all rights on it again; whether it lacked one.

    Without CONNECT it could not even grant itself the others.
    """
    lacking = admin.row(
        "select 1 from pg_database where datname = %(name)s and exists ("
        " select privilege_type from aclexplode(acldefault('d', datdba)) where grantee = datdba"
        " except select privilege_type from aclexplode(datacl) where grantee = datdba)"
        " and datacl is not null",
        name=login.database,
    )
    if lacking:
        with become(admin, login.role):
            admin.run(
                "GRANT ALL ON DATABASE {database} TO {role}",
                database=login.database,
                role=login.role,
            )
    return bool(lacking)


@contextmanager
def become(admin: Administrator, role: str) -> Iterator[None]:
    """Inside, the administrator may give things to `role`; a superuser may in any case.

    Others must be a member of it for that, and since PostgreSQL 16 one that may SET ROLE: who made
    the role may grant that, to himself too.
    """
    if admin.superuser or admin.row(
        "select 1 where pg_has_role(%(role)s, %(right)s)",
        role=role,
        right="SET" if admin.version >= MAY_SET else "MEMBER",
    ):
        yield
        return
    how = sql.SQL("WITH SET TRUE, INHERIT TRUE" if admin.version >= MAY_SET else "")
    try:
        admin.run("GRANT {role} TO {admin} {how}", role=role, admin=admin.role, how=how)
    except DatabaseError as error:
        raise DatabaseError(
            f"the role '{admin.role}' of HPO_ADMIN_STORAGE lacks ADMIN OPTION on the role '{role}'",
            hint=f"As who made '{role}', or a superuser: GRANT {role} TO {admin.role} "
            "WITH ADMIN OPTION;",
        ) from error
    try:
        yield
    finally:
        admin.run("REVOKE {role} FROM {admin}", role=role, admin=admin.role)
