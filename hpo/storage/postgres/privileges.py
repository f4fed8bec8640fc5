"""Hand the service's database to its role, check that it may write, and let a reader read.

Ownership does not settle it: a right that was revoked from an owner stays lacking until it is
granted again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from hpo.errors import DatabaseError, UsageError
from hpo.storage.postgres.roles import become

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from hpo.storage.postgres.admin import Administrator

NAMED = 3  # rights of a message

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
# What the role owns and may nevertheless not use as an owner may, schemas before what is in them.
# The owner of `public` is pg_database_owner since PostgreSQL 15, so the database's owner is a
# member of it; before, it is an administrator.
_TAKEN = """
with own (kind, name, acl, usual, owner, rank) as (
    select 'DATABASE', format('%%I', datname), datacl, 'd', datdba, 1
      from pg_database where datname = current_database()
    union all
    select 'SCHEMA', format('%%I', nspname), nspacl, 'n', nspowner, 1
      from pg_namespace where nspname = 'hpo'
    union all
    select case relkind when 'S' then 'SEQUENCE' else 'TABLE' end,
           format('%%I.%%I', nspname, relname), relacl,
           case relkind when 'S' then 's' else 'r' end, relowner, 2
      from pg_class r join pg_namespace n on n.oid = relnamespace
     where nspname in ('public', 'hpo') and relkind in ('r', 'p', 'v', 'S')
    union all
    select 'FUNCTION', p.oid::regprocedure::text, proacl, 'f', proowner, 2
      from pg_proc p join pg_namespace n on n.oid = pronamespace
     where nspname in ('public', 'hpo') and prokind = 'f'
    union all
    select 'TYPE', format('%%I.%%I', nspname, typname), typacl, 'T', typowner, 2
      from pg_type t join pg_namespace n on n.oid = typnamespace
     where nspname in ('public', 'hpo') and typtype = 'e'
)
select kind, name from (
    select 'SCHEMA' as kind, 'public' as name, 0 as rank from pg_namespace
     where nspname = 'public' and pg_has_role(nspowner, 'USAGE')
       and not (has_schema_privilege(oid, 'USAGE') and has_schema_privilege(oid, 'CREATE'))
    union all
    select kind, name, rank from own
     where owner = (select oid from pg_roles where rolname = %(role)s)
       and acl is not null and exists (
        select privilege_type from aclexplode(acldefault(usual::"char", owner))
         where grantee = owner
        except
        select privilege_type from aclexplode(acl) where grantee = owner)
) taken order by rank, name
"""
# What a worker needs and the caller's role may not do
_LACKING = """
select c.oid::regclass::text, a.needed from pg_class c
  join pg_namespace n on n.oid = relnamespace
  join (values ('S', 'USAGE'), ('r', 'SELECT'), ('r', 'INSERT'), ('r', 'UPDATE'), ('r', 'DELETE'))
       a (kind, needed) on a.kind = c.relkind::text
 where nspname in ('public', 'hpo')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid
                      and d.deptype = 'e')
   and not case relkind when 'S' then has_sequence_privilege(c.oid, a.needed)
                        else has_table_privilege(c.oid, a.needed) end
union all
select p.oid::regprocedure::text, 'EXECUTE' from pg_proc p
  join pg_namespace n on n.oid = pronamespace
 where nspname = 'hpo' and not has_function_privilege(p.oid, 'EXECUTE')
 order by 1, 2
"""
_OPEN_TO_ALL = """
select 1 from pg_namespace n, aclexplode(n.nspacl) a
 where nspname = 'public' and a.grantee = 0 and a.privilege_type = 'CREATE'
"""
# PostgreSQL lets everybody who is in a database store large objects there; nothing here uses them.
_LARGE_OBJECTS = """
select p.oid::regprocedure::text from pg_proc p
 where pronamespace = 'pg_catalog'::regnamespace
   and proname in ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import')
   and has_function_privilege('public', p.oid, 'EXECUTE')
"""
# Before PostgreSQL 15, where an administrator owns `public`
_SHUT_OUT = """
select 1 from pg_namespace
 where nspname = 'public' and not pg_has_role(%(role)s, nspowner, 'USAGE')
   and not (has_schema_privilege(%(role)s, oid, 'USAGE')
            and has_schema_privilege(%(role)s, oid, 'CREATE'))
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
    open_to_all = admin.rows(_OPEN_TO_ALL)
    if open_to_all or admin.rows(_SHUT_OUT, role=role):
        admin.run("GRANT USAGE, CREATE ON SCHEMA public TO {role}", role=role)
    if open_to_all:
        admin.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def close_large_objects(admin: Administrator) -> None:
    """Let nobody store large objects; only a superuser can close that, others leave it open.

    Args:
        admin: connected to the service's database.
    """
    if admin.superuser:
        for (function,) in admin.rows(_LARGE_OBJECTS):
            admin.run(f"REVOKE EXECUTE ON FUNCTION pg_catalog.{function} FROM PUBLIC")


def needs_administrator(connection: Connection, *, superuser: bool) -> bool:
    """Whether hand_over, close_schema or close_large_objects has something left to do.

    Args:
        connection: of the service's role.
        superuser: whether the administrator is one.
    """
    role = {"role": connection.scalar(text("select current_user"))}
    asked = [_FOREIGN, _OPEN_TO_ALL, _SHUT_OUT, *([_LARGE_OBJECTS] if superuser else [])]
    return any(connection.exec_driver_sql(one, role).first() is not None for one in asked)


def give_back(connection: Connection) -> int:
    """Give the caller's role all rights on what it owns in both schemas; on how many it lacked one.

    Args:
        connection: of the owner, who may grant to itself even what was revoked from it.
    """
    role = {"role": connection.scalar(text("select current_user"))}
    # In their order: without a right to a schema nothing in it can be named
    lacking = connection.exec_driver_sql(_TAKEN, role).all()
    for kind, name in lacking:
        connection.exec_driver_sql(f"GRANT ALL ON {kind} {name} TO CURRENT_USER")
    return len(lacking)


def require_writing(engine: Engine) -> None:
    """Refuse a role that could not do what a worker does.

    Raises:
        DatabaseError: it may only read, or a right lacks; the first ones are named.
    """
    with engine.connect() as connection:
        role = connection.scalar(text("select current_user"))
        only_reads = connection.scalar(text("show transaction_read_only")) == "on"
        lacking = connection.exec_driver_sql(_LACKING).all()
    if only_reads:
        raise DatabaseError(
            f"the role '{role}' may only read here: no trial can run with it",
            hint="Put the URL of the service's own role into HPO_STORAGE, on the primary server.",
        )
    if not lacking:
        return
    named = [f"{right} on {name}" for name, right in lacking[:NAMED]]
    if len(lacking) > NAMED:
        named.append(f"and {len(lacking) - NAMED} rights more")
    raise DatabaseError(
        f"the role '{role}' lacks {', '.join(named)}: no trial can run with it",
        hint="Run `hpo provision`, which gives each role its rights; HPO_STORAGE is to be the URL "
        "of the service's own role.",
    )


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
