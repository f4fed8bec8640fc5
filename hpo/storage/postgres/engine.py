"""Connect to PostgreSQL, and `Database`, which tries again while it is gone."""

from __future__ import annotations

import logging
import random
import threading
import time
from contextlib import contextmanager
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
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from sqlalchemy import Connection, Engine, Executable, Row

    from hpo.settings import Settings

__all__ = [
    "Database",
    "connect",
    "is_lost",
    "make_engine",
    "reconnect_to_embedded",
    "retry_while_unavailable",
    "storage_url",
]

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
        reconnect_to_embedded(engine, home)
    return engine


class Database:
    """One PostgreSQL database: its pool of connections, and how patiently it is asked.

    Thread-safe: each call takes a connection of its own from the pool. What is given to `run`, and
    each statement of the `fetch` family and of `execute`, must be idempotent: a commit may have
    happened although its answer was lost.

    Attributes:
        engine: the pool, for functions that need no patience.
    """

    def __init__(
        self, engine: Engine, *, patience_s: float = 0.0, stop: threading.Event | None = None
    ) -> None:
        """Ask through an engine, which this object disposes at its end.

        Args:
            engine: the pool.
            patience_s: seconds, from the first failure of a call, to go on trying.
            stop: ends the waiting early when set.
        """
        self.engine = engine
        self._patience_s, self._stop = patience_s, stop or threading.Event()
        # Reentrant: a promotion, which holds it, brings a trial's run up to date meanwhile
        self._long = threading.RLock()

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        create: bool = False,
        pool_size: int = POOL_SIZE,
        stop: threading.Event | None = None,
    ) -> Self:
        """Reach the database of the settings once; `connect` says what is raised.

        Args:
            settings: where the database is, and for how long one that is away is waited for.
            create: whether to make the private server's folder where there is none.
            pool_size: largest number of connections at once.
            stop: ends the waiting early when set.
        """
        engine = connect(settings, create=create, pool_size=pool_size)
        return cls(engine, patience_s=settings.db_patience_s, stop=stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.dispose()

    @property
    def url(self) -> str:
        """The address without its password, for messages."""
        return str(self.engine.url)

    def run(self, call: Callable[[Connection], T]) -> T:
        """Run `call` in a transaction of its own; after a lost connection, again.

        Args:
            call: gets the open transaction's connection; what it returns is returned.

        Raises:
            DatabaseError: the patience is spent, `stop` was set, or the server refuses us.
            StorageFullError: no space is left on the server's device.
        """
        outage = _Outage(self.url, self._patience_s, self._stop)
        while True:
            with outage, self.engine.begin() as connection:
                return call(connection)

    def fetch_one(self, statement: Executable, /, **values: Any) -> Row[Any]:
        """Return the one row of a statement, run as `run` does."""
        return self.run(lambda connection: connection.execute(statement, values).one())

    def fetch_all(self, statement: Executable, /, **values: Any) -> list[Row[Any]]:
        """Return all rows of a statement, run as `run` does."""
        return self.run(lambda connection: list(connection.execute(statement, values).all()))

    def scalar(self, statement: Executable, /, **values: Any) -> Any:
        """Return the first column of a statement's first row, run as `run` does; None without."""
        return self.run(lambda connection: connection.scalar(statement, values))

    def execute(self, statement: Executable, /, **values: Any) -> None:
        """Run a statement whose rows do not matter, as `run` does."""
        self.run(lambda connection: connection.execute(statement, values))

    def connect(self) -> Connection:
        """A connection for a short look; it is given back at the end of the `with` block."""
        return self.engine.connect()

    def transaction(self) -> AbstractContextManager[Connection]:
        """A short transaction, committed at the end of the `with` block and never repeated."""
        return self.engine.begin()

    @contextmanager
    def long_transaction(self) -> Iterator[Connection]:
        """A transaction that lasts as long as another service takes; of one thread at a time.

        The pool's other connection stays free for short transactions. The thread that is in one
        may begin another.
        """
        with self._long, self.engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close the connections that nobody uses now; later calls make new ones."""
        self.engine.dispose()


def retry_while_unavailable(
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
        patience_s: seconds, from the first failure, to go on trying.
        stop: ends the waiting early when set.

    Raises:
        DatabaseError: the patience is spent, `stop` was set, or the server refuses us.
        StorageFullError: no space is left on the server's device.
    """
    outage = _Outage(url, patience_s, stop or threading.Event())
    while True:
        with outage:
            return attempt()


class _Outage:
    """Swallows the failures of a database that is away, waiting after each, until it is back.

    One instance serves the attempts at one thing; each is made in a `with` block.

    Args:
        url: the database, for messages.
        patience_s: seconds, from the first failure, until a failure is raised.
        stop: ends the waiting early when set.
    """

    def __init__(self, url: str, patience_s: float, stop: threading.Event) -> None:
        self._url, self._patience_s, self._stop = url, patience_s, stop
        self._failed_at: float | None = None
        self._wait_s = FIRST_WAIT_S

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None and self._failed_at is not None:
            log.warning("PostgreSQL is back after %.1f s", time.monotonic() - self._failed_at)
        if not isinstance(error, (DBAPIError, PoolTimeoutError, psycopg2.Error, DatabaseError)):
            return False
        # `connect` has explained its error already
        cause = error.__cause__ if isinstance(error, DatabaseError) else error
        meaning = error if isinstance(error, DatabaseError) else explain(error, self._url)
        if meaning is None or cause is None:
            return False
        if not is_passing(cause) or not self._waited(meaning):
            raise meaning from cause
        return True

    def _waited(self, meaning: HpoError) -> bool:
        """Whether there is time for another attempt, which is due on return."""
        now = time.monotonic()
        if self._failed_at is None:
            self._failed_at = now
            log.warning("%s; trying for %g s", meaning, self._patience_s)
        left_s = self._failed_at + self._patience_s - now
        if left_s <= 0:
            return False
        pause_s = self._wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads workers, hides nothing
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        return not self._stop.wait(min(pause_s, left_s))


def reconnect_to_embedded(engine: Engine, home: Path) -> None:
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
