"""What PostgreSQL's errors mean to a worker; how they look is tested on a real server."""

from __future__ import annotations

import psycopg2
import pytest
from psycopg2 import errors
from sqlalchemy.exc import DBAPIError

from hpo.storage.postgres.errors import explain, is_lost, is_passing

URL = "postgresql+psycopg2://ada:s3cr3t@db.example:5433/lab"


class Coded(psycopg2.OperationalError):
    """psycopg2 sets `pgcode` in C; a class can stand for it."""

    pgcode = ""


def coded(state: str) -> psycopg2.Error:
    return type("Coded", (Coded,), {"pgcode": state})("said by the server")


@pytest.mark.parametrize("state", ["57P01", "57P02", "57P03", "57P05", "25P03", "08006", "08P01"])
def test_a_server_that_hung_up_is_a_lost_connection(state: str) -> None:
    """Shut down, crashed, starting up, idle for too long, any connection exception."""
    assert is_lost(coded(state))


@pytest.mark.parametrize(
    "error",
    [
        psycopg2.OperationalError("server closed the connection unexpectedly"),
        psycopg2.OperationalError("SSL SYSCALL error: EOF detected"),
        psycopg2.DatabaseError("error with status PGRES_TUPLES_OK and no message"),
        psycopg2.InterfaceError("connection already closed"),
        psycopg2.OperationalError('connection to server at "db" failed: Connection refused'),
        psycopg2.OperationalError('could not translate host name "db" to address: Try again'),
        psycopg2.OperationalError("FATAL:  sorry, too many clients already"),
        psycopg2.OperationalError('FATAL:  too many connections for role "ada"'),
    ],
)
def test_without_a_state_a_broken_connection_is_lost(error: psycopg2.Error) -> None:
    """As psycopg2 raises them, bare or wrapped by SQLAlchemy."""
    assert is_lost(error)
    assert is_lost(DBAPIError.instance("select 1", None, error, psycopg2.Error))


@pytest.mark.parametrize(
    "error",
    [
        psycopg2.OperationalError('FATAL:  password authentication failed for user "ada"'),
        psycopg2.OperationalError('FATAL:  database "lab" does not exist'),
        psycopg2.OperationalError('FATAL:  role "ada" does not exist'),
        psycopg2.OperationalError("fe_sendauth: no password supplied"),
        psycopg2.OperationalError('FATAL:  permission denied for database "lab"'),
    ],
)
def test_a_refusal_is_final(error: psycopg2.Error) -> None:
    """Waiting mends neither a wrong password nor a missing database."""
    assert not is_passing(error)
    assert explain(error, URL) is not None


@pytest.mark.parametrize("error", [errors.UniqueViolation("duplicate"), ValueError("no"), None])
def test_a_fault_of_the_statement_is_not_explained_away(error: BaseException | None) -> None:
    """A statement's own error is neither lost nor passing, and keeps its own words."""
    assert error is None or not is_passing(error)
    assert error is None or explain(error, URL) is None
    assert explain(coded("42P01"), URL) is None


@pytest.mark.parametrize("state", ["40001", "40P01", "53300"])
def test_a_deadlock_passes_but_loses_no_connection(state: str) -> None:
    """A serialisation failure, a deadlock and a full server will do a little later."""
    assert is_passing(coded(state))
    assert not is_lost(coded(state))


def test_words_name_the_place_and_no_password() -> None:
    """Host, port and what the server said; never the password."""
    error = explain(psycopg2.OperationalError("something nobody has seen yet"), URL)
    assert error is not None
    assert "db.example:5433" in str(error)
    assert "something nobody has seen yet" in str(error)
    assert "s3cr3t" not in str(error) + error.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SSL error: certificate verify failed", "do not vouch for"),
        ('root certificate file "/x/ca.crt" does not exist', "does not exist"),
        ('server certificate for "db" does not match host name "x"', "another host's name"),
        ('no pg_hba.conf entry for host "::1", user "ada", no encryption', "without encryption"),
    ],
)
def test_what_is_wrong_with_the_encryption_is_final(text: str, words: str) -> None:
    """Waiting does not mend a certificate; the hint says what to change in HPO_STORAGE."""
    error = psycopg2.OperationalError(text)
    assert not is_passing(error)
    meaning = explain(error, URL)
    assert meaning is not None
    assert words in str(meaning)
    assert "ssl" in meaning.hint
