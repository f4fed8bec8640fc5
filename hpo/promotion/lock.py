"""Lock a registered model, so that one promotion of it runs at a time."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hpo.errors import DatabaseError
from hpo.promotion import ledger
from hpo.storage.postgres.errors import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from hpo.storage.postgres.engine import Database

POLL_S = 0.5


@contextmanager
def promotion_lock(
    database: Database, model: str, waiting: Callable[[], None]
) -> Iterator[Connection]:
    """Hold the lock of a registered model inside the block.

    The lock is the transaction's: it dies with its holder, and it is safe behind PgBouncer. It is
    asked for again and again instead of waited for, so that Ctrl-C works meanwhile, and in a
    transaction each time: with PgBouncer those who waited would occupy what the holder needs.

    Args:
        database: has room for a second connection, which short transactions need. Other long ones
            of it, those of mirrors, wait meanwhile.
        model: the registered model's name.
        waiting: called once when another holds it.

    Yields:
        The connection whose open transaction holds the lock. What is written on it is committed at
        the block's end.

    Raises:
        DatabaseError: the connection, and with it the lock, is gone.
    """
    told = False
    try:
        while True:
            with database.long_transaction() as connection:
                if ledger.try_lock(connection, model):
                    yield connection
                    return
            if not told:
                waiting()
                told = True
            time.sleep(POLL_S)
    except (DBAPIError, PoolTimeoutError) as error:
        raise explain(error, database.url) or error from error


def require_held(connection: Connection) -> None:
    """Check, before a step that cannot be taken back, that the lock is still held.

    Raises:
        DatabaseError: the connection is gone, and another may be promoting now.
    """
    try:
        ledger.ping(connection)
    except DBAPIError as error:
        raise DatabaseError(
            "the connection that guards this promotion was lost",
            hint="Run the same command again: it goes on where this one stopped.",
        ) from error
