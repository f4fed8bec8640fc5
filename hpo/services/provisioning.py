"""What `hpo provision` does: roles, databases, rights, tables and the bucket, as the variables say.

A second run changes nothing but what the variables change, and two runs at once do no harm.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from hpo.errors import DatabaseError, ServiceError, StoreError
from hpo.storage.artifacts.opening import open_store
from hpo.storage.artifacts.s3 import S3Store, ensure_bucket
from hpo.storage.postgres import schema
from hpo.storage.postgres.admin import Administrator, administrator
from hpo.storage.postgres.engine import make_engine
from hpo.storage.postgres.errors import explain, is_passing
from hpo.storage.postgres.privileges import (
    close_database,
    close_large_objects,
    close_schema,
    give_back,
    hand_over,
    let_read,
    needs_administrator,
)
from hpo.storage.postgres.roles import (
    READER_SETTINGS,
    become,
    ensure_owned_database,
    ensure_role,
    give_back_database,
    refuse_memberships,
    set_role,
)
from hpo.storage.postgres.url import mask, with_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from hpo.services.credentials import Logins
    from hpo.settings import Settings
    from hpo.storage.postgres.roles import Login

T = TypeVar("T")

POLL_S = 1.0
SAY_AGAIN_S = 15.0


@dataclass(kw_only=True)
class Provisioned:
    """What is there now; `made` or `there`, by name.

    Attributes:
        roles: those that log in; each has the password that its URL gives.
        databases: each owned by its role and closed to all others.
        revision: of the schema `hpo`.
        handed_over: how many tables and types were another role's, and are the service's now.
        given_back: on how many things an owner lacked a right of its own, and has it again.
        reader: the role that may read the studies' database and nothing else; None for nobody.
        bucket: S3 bucket of HPO_ARTIFACTS -> made or there; {} where it names a folder.
    """

    roles: dict[str, str] = field(default_factory=dict)
    databases: dict[str, str] = field(default_factory=dict)
    revision: str = schema.HEAD
    handed_over: int = 0
    given_back: int = 0
    reader: str | None = None
    bucket: dict[str, str] = field(default_factory=dict)


def provision(
    settings: Settings, logins: Logins, *, wait_s: float, say: Callable[[str], None]
) -> Provisioned:
    """Make true what the variables say; returns what is there now.

    Args:
        settings: where the artifacts are.
        logins: who shall be able to log in, and who makes them.
        wait_s: how long to wait for PostgreSQL, or another one who provisions it, and then for S3.
        say: told, in one sentence each, what is waited for.

    Raises:
        UsageError: a variable names what may not be: a superuser, another's bucket.
        DatabaseError: PostgreSQL does not answer, or refuses; a right that lacks is named.
        SchemaError: the database is newer than this version.
        StoreError: S3 does not answer.
    """
    deadline = time.monotonic() + wait_s
    first = logins.admin or logins.service
    # All of it again where the way is lost on the way: names of a network that is just being made
    # come and go, and every step may be repeated
    done = _waited(
        lambda: _logins_made(logins, deadline), f"PostgreSQL ({mask(first.url)})", deadline, say
    )
    store = open_store(settings)
    if isinstance(store, S3Store):
        deadline = time.monotonic() + wait_s
        made = _waited(lambda: ensure_bucket(store), f"S3 ({store.place})", deadline, say)
        done.bucket[store.bucket] = _word(made)
        store.require_writable()
    return done


def _logins_made(logins: Logins, deadline: float) -> Provisioned:
    """Roles, databases, rights and tables."""
    done = Provisioned()
    first = logins.admin or logins.service
    _ping(first.url)
    if logins.admin is None:
        _fill(logins, done)
        return done
    left_s = max(deadline - time.monotonic(), 1.0)
    with administrator(logins.admin.url, wait_s=left_s) as admin:
        admin.require_rights()
        _make_roles(admin, logins, done)
        done.handed_over = _take_over(admin, logins.admin.url, logins.service)
        _fill(logins, done)
    return done


def _make_roles(admin: Administrator, logins: Logins, done: Provisioned) -> None:
    for login in logins.made:
        done.roles[login.role] = _word(ensure_role(admin, login))
    if logins.reader is not None:
        refuse_memberships(admin, logins.reader)
        set_role(admin, logins.reader.role, READER_SETTINGS)
    for owner in (logins.service, logins.mlflow):
        if owner is not None:
            done.databases[owner.database] = _word(ensure_owned_database(admin, owner))
            done.given_back += give_back_database(admin, owner)


def _take_over(admin: Administrator, url: str, service: Login) -> int:
    """Give the service what another role made in its database, as where an older version ran."""
    with _as_owner(service) as engine, engine.connect() as connection:
        if not needs_administrator(connection, superuser=admin.superuser):
            return 0
    inside = with_database(url, service.database)
    with become(admin, service.role), administrator(inside) as within:
        count = hand_over(within, service.role)
        close_schema(within, service.role)
        close_large_objects(within)
        return count


def _fill(logins: Logins, done: Provisioned) -> None:
    """Tables and rights, as the databases' owners."""
    with _as_owner(logins.service) as engine:
        # First what was revoked from the owner, without which its tables cannot be looked at
        with _granting(engine) as connection:
            done.given_back += give_back(connection)
        schema.upgrade(engine)
        with _granting(engine) as connection:
            close_database(connection)
            if logins.reader is not None:
                let_read(connection, logins.reader.role)
                done.reader = logins.reader.role
    if logins.mlflow is not None:
        with _as_owner(logins.mlflow) as engine, _granting(engine) as connection:
            done.given_back += give_back(connection)
            close_database(connection)
    for owner in (logins.service, logins.mlflow):
        if owner is not None:
            done.databases.setdefault(owner.database, "there")


@contextmanager
def _granting(engine: Engine) -> Iterator[Connection]:
    """A transaction that is the only one which grants in its database, or changes its schema."""
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": schema.LOCK})
        yield connection


@contextmanager
def _as_owner(login: Login) -> Iterator[Engine]:
    """An engine as `login`; what PostgreSQL refuses is said in plain words."""
    engine = make_engine(login.url)
    try:
        yield engine
    except DBAPIError as error:
        raise explain(error, login.url) or error from error
    finally:
        engine.dispose()


def _ping(url: str) -> None:
    engine = make_engine(url, pool_size=1)
    try:
        engine.connect().close()
    except DBAPIError as error:
        raise explain(error, url) or error from error
    finally:
        engine.dispose()


def _waited(attempt: Callable[[], T], what: str, deadline: float, say: Callable[[str], None]) -> T:
    """The attempt's result, tried again until the deadline while what it needs is away."""
    said_at = float("-inf")
    while True:
        try:
            return attempt()
        except ServiceError as error:
            now = time.monotonic()
            if now >= deadline or not _may_pass(error):
                raise
            if now - said_at >= SAY_AGAIN_S:
                said_at = now
                say(f"Waiting for {what}, {deadline - now:.0f} s more at most: {error}")
            time.sleep(min(POLL_S, deadline - now))


def _may_pass(error: ServiceError) -> bool:
    if isinstance(error, DatabaseError):
        return error.__cause__ is not None and is_passing(error.__cause__)
    return isinstance(error, StoreError)


def _word(made: bool) -> str:
    return "made" if made else "there"
