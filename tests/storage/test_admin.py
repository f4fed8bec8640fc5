"""Making a database beside the study's: once, by many at a time, or refused in words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, text

from hpo.errors import DatabaseError
from hpo.storage.postgres.admin import ensure_database
from hpo.storage.postgres.engine import make_engine
from hpo.storage.postgres.url import with_database

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def wanted(engine: Engine) -> Iterator[str]:
    """URL of a database that is not there yet, with a name that needs quoting."""
    name = f"{engine.url.database}-Own"
    yield engine.url.set(database=name).render_as_string(hide_password=False)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


def test_eight_at_once_make_one_database(database_url: str, wanted: str) -> None:
    """Nobody fails, exactly one made it, and it can be used."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ensure_database(wanted, beside=database_url), range(8)))
    assert made.count(True) == 1
    assert ensure_database(wanted, beside=database_url) is False
    engine = make_engine(wanted)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_a_user_without_the_right_is_told(engine: Engine, wanted: str) -> None:
    """Not allowed to make databases: the statement that mends it, and no password."""
    role = f"plain_{engine.url.database}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 's3cr3t'"))
    beside = engine.url.set(username=role, password="s3cr3t")  # noqa: S106 - a made-up one
    try:
        with pytest.raises(DatabaseError, match="may not make the database") as caught:
            ensure_database(wanted, beside=beside.render_as_string(hide_password=False))
        assert "CREATE DATABASE" in caught.value.hint
        assert "s3cr3t" not in str(caught.value)
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP ROLE {role}"))


def test_an_unreachable_server_is_said(database_url: str, wanted: str) -> None:
    """The same plain words as everywhere."""
    with pytest.raises(DatabaseError, match="has no database 'no_such'"):
        ensure_database(wanted, beside=with_database(database_url, "no_such"))
