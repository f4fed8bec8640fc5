"""Connect to PostgreSQL, and try again while it is gone."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg2
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.errors import DatabaseError, HpoError
from hpo.storage.postgres import embedded
from hpo.storage.postgres.errors import explain, is_lost, is_passing
from hpo.storage.postgres.url import normalise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from hpo.settings import Settings

__all__ = ["connect", "follow", "is_lost", "make_engine", "patient", "persist", "storage_url"]

T = TypeVar("T")
log = logging.getLogger(__name__)

OLDEST = (14,)
POOL_SIZE = 2  # of a worker: one that its mirror may hold, one for short transactions
POOL_WAIT_S = 10.0  # for a connection of the pool, before it is said that all are in use
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0

# A machine that vanished is noticed in about half a minute, not in TCP's two hours.
CONNECTING: dict[str, Any] = {
    "connect_timeout": 10,  # s
    "keepalives": 1,
    "keepalives_idle": 15,  # s
    "keepalives_interval": 5,  # s
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
    "application_name": "hpo",
}


def storage_url(settings: Settings, *, create: bool = False) -> str:
    """The URL of the database meant, password included; starts the private server if need be.

    Args:
        settings: where it is.
        create: whether to make the private server's folder where there is none.

    Raises:
        UsageError: HPO_STORAGE is no PostgreSQL URL, or there is no project here.
        DatabaseError: the private server cannot be started.
    """
    if settings.storage is not None and not is_private(settings):
        return normalise(settings.storage)
    return embedded.ensure_running(settings.home, create=create)


def is_private(settings: Settings) -> bool:
    """Whether the database meant is the private server of `settings.home`.

    It is where HPO_STORAGE is unset, and where it is the address that `hpo env` printed: that one
    is started like the other, and its port may have changed since.
    """
    if settings.storage is None:
        return True
    known = embedded.known_url(settings.home)
    if known is None:
        return False
    private, given = make_url(known), make_url(normalise(settings.storage))
    parts = ("username", "password", "host", "database")
    return all(getattr(private, part) == getattr(given, part) for part in parts)


def connect(settings: Settings, *, create: bool = False, pool_size: int = POOL_SIZE) -> Engine:
    """An engine whose database has been reached once. The caller disposes it.

    Args:
        settings: where the database is.
        create: whether to make the private server's folder where there is none.
        pool_size: largest number of connections at once.

    Raises:
        UsageError: HPO_STORAGE is no PostgreSQL URL, or there is no project here.
        DatabaseError: the server cannot be reached, refuses us, or is too old.
    """
    url = storage_url(settings, create=create)
    home = settings.home if is_private(settings) else None
    engine = make_engine(url, pool_size=pool_size, home=home)
    try:
        with engine.connect() as connection:
            version = connection.dialect.server_version_info or OLDEST
    except DBAPIError as error:
        engine.dispose()
        raise explain(error, url) or error from error
    if version < OLDEST:
        engine.dispose()
        seen = ".".join(str(part) for part in version)
        raise DatabaseError(
            f"PostgreSQL {seen} is too old: {OLDEST[0]} or newer is needed",
            hint="Name a newer server in HPO_STORAGE, or unset it for the private one.",
        )
    return engine


def make_engine(url: str, *, pool_size: int = POOL_SIZE, home: Path | None = None) -> Engine:
    """An engine on `url`; opens no connection yet.

    Args:
        url: as `storage_url` returns it.
        pool_size: largest number of connections at once.
        home: folder of the private server, which is then started again after it was killed, and
            followed to another port.
    """
    given = make_url(url).query
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_S,
        connect_args={name: value for name, value in CONNECTING.items() if name not in given},
    )
    if home is not None:
        follow(engine, home)
    return engine


def patient(
    engine: Engine,
    call: Callable[[Connection], T],
    *,
    patience_s: float,
    stop: threading.Event | None = None,
) -> T:
    """Run `call` in a transaction of its own; after a lost connection, again.

    `call` must be idempotent: its commit may have happened although its answer was lost.

    Args:
        engine: the database.
        call: gets the open transaction's connection; what it returns is returned.
        patience_s: seconds, from the first failure, to go on trying.
        stop: ends the waiting early when set.

    Raises:
        DatabaseError: the patience is spent, `stop` was set, or the server refuses us.
        StorageFullError: no space is left on the server's device.
    """

    def once() -> T:
        with engine.begin() as connection:
            return call(connection)

    return persist(once, str(engine.url), patience_s=patience_s, stop=stop)


def persist(
    attempt: Callable[[], T],
    url: str,
    *,
    patience_s: float,
    stop: threading.Event | None = None,
) -> T:
    """Make an attempt at something with the database; while that is away, again.

    Args:
        attempt: opens what it needs, and may be repeated.
        url: the database, for messages.
        patience_s: as of `patient`, which says what is raised too.
        stop: as of `patient`.
    """
    stop = stop or threading.Event()
    failed_at: float | None = None
    wait_s = FIRST_WAIT_S
    while True:
        try:
            result = attempt()
        except (DBAPIError, PoolTimeoutError, psycopg2.Error, DatabaseError) as error:
            # `connect` has explained its error already
            cause = error.__cause__ if isinstance(error, DatabaseError) else error
            meaning = error if isinstance(error, DatabaseError) else explain(error, url)
            if meaning is None or cause is None:
                raise
            if not is_passing(cause):
                raise meaning from cause
            now = time.monotonic()
            if failed_at is None:
                failed_at = now
                log.warning("%s; trying for %g s", meaning, patience_s)
            if now - failed_at >= patience_s:
                raise meaning from cause
            pause = wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads workers, hides nothing
            if stop.wait(min(pause, failed_at + patience_s - now)):
                raise meaning from cause
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        else:
            if failed_at is not None:
                log.warning("PostgreSQL is back after %.1f s", time.monotonic() - failed_at)
            return result


def follow(engine: Engine, home: Path) -> None:
    """Let new connections of `engine` follow the private server, and revive it when killed."""

    @event.listens_for(engine, "do_connect")
    def reach(dialect: Any, record: Any, words: Any, named: dict[str, Any]) -> Any:
        del record
        named["port"] = embedded.port(home) or named["port"]
        try:
            return dialect.connect(*words, **named)
        except psycopg2.OperationalError as error:
            try:
                url = embedded.revive(home)
            except HpoError as reason:
                log.warning("the private PostgreSQL cannot be started again: %s", reason)
                raise error from reason
            if url is None:
                raise
            named["port"] = make_url(url).port
            return dialect.connect(*words, **named)
