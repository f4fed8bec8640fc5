"""Who may do what in the service's database; knows no password and makes no role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from hpo.database.roles import become
from hpo.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hpo.database.administrator import Administrator

SCHEMAS = ("public", "hpo")
# The functions of the schema `hpo` that only look; a reader's commands and pages need them.
LOOKING = ("now", "utc_now", "up_since", "seconds")

# Everything in our two schemas that is another's; extensions keep theirs.
_FOREIGN = """
select c.kind, c.name from (
    select 'SCHEMA' as kind, format('%%I', nspname) as name, nspowner as owner,
           'pg_namespace'::regclass as class, oid
      from pg_namespace where nspname = 'hpo'
    union all
    select case relkind when 'v' then 'VIEW' when 'S' then 'SEQUENCE' else 'TABLE' end,
           format('%%I.%%I', nspname, relname), relowner, 'pg_class'::regclass, r.oid
      from pg_class r join pg_namespace n on n.oid = relnamespace
     where nspname in ('public', 'hpo') and relkind in ('r', 'p', 'v', 'S')
       and not exists (select 1 from pg_depend d
                        where d.classid = 'pg_class'::regclass and d.objid = r.oid
                          and d.deptype in ('a', 'i'))  -- sequences go with their tables
    union all
    select 'FUNCTION', p.oid::regprocedure::text, proowner, 'pg_proc'::regclass, p.oid
      from pg_proc p join pg_namespace n on n.oid = pronamespace
     where nspname in ('public', 'hpo') and prokind = 'f'
    union all
    select 'TYPE', format('%%I.%%I', nspname, typname), typowner, 'pg_type'::regclass, t.oid
      from pg_type t join pg_namespace n on n.oid = typnamespace
     where nspname in ('public', 'hpo') and typtype = 'e'
) c
 where pg_get_userbyid(c.owner) <> %(role)s
   and not exists (select 1 from pg_depend d
                    where d.classid = c.class and d.objid = c.oid and d.deptype = 'e')
"""
_OPEN_TO_ALL = """
select 1 from pg_namespace n, aclexplode(n.nspacl) a
 where nspname = 'public' and a.grantee = 0 and a.privilege_type = 'CREATE'
"""


def hand_over(admin: Administrator, role: str) -> int:
    """Give the tables, types and functions of both schemas to `role`; how many were another's.

    So a database that an administrator's own role has filled can be migrated by the service's.

    Args:
        admin: connected to the service's database.
        role: the service's.
    """
    foreign = admin.rows(_FOREIGN, role=role)
    if foreign:
        with become(admin, role):
            for kind, name in foreign:
                # The name is the server's own quoting
                admin.run(f"ALTER {kind} {name} OWNER TO {{role}}", role=role)
    return len(foreign)


def close_schema(admin: Administrator, role: str) -> None:
    """Let only `role` make tables in `public`, where PostgreSQL 14 lets everybody.

    Args:
        admin: connected to the service's database.
        role: the service's.
    """
    if admin.rows(_OPEN_TO_ALL):
        admin.run("GRANT USAGE, CREATE ON SCHEMA public TO {role}", role=role)
        admin.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def needs_administrator(connection: Connection) -> bool:
    """Whether `hand_over` or `close_schema` have something to do, asked by the service's role."""
    role = {"role": connection.scalar(text("select current_user"))}
    foreign = connection.exec_driver_sql(_FOREIGN, role).first()
    return foreign is not None or connection.exec_driver_sql(_OPEN_TO_ALL).first() is not None


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
