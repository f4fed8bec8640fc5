"""Connections to a real PostgreSQL: refusals in plain words, and patience when it is gone."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from hpo.errors import DatabaseError, StorageFullError, UsageError
from hpo.settings import Settings
from hpo.storage.postgres import embedded
from hpo.storage.postgres.engine import Database, connect, make_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WHO = text("SELECT pg_backend_pid()")


def settings_for(storage: str, tmp_path: Path) -> Settings:
    return Settings.read({"HPO_STORAGE": storage, "HPO_HOME": str(tmp_path / ".hpo")}, tmp_path)


def end_clients(engine: Engine) -> None:
    """End every other connection to the engine's database, as a restarted server would."""
    other = make_engine(engine.url.render_as_string(hide_password=False))
    with other.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    other.dispose()


@pytest.fixture
def role(engine: Engine) -> Iterator[Callable[[str], str]]:
    """Makes a role with the given options and returns its URL."""
    name = f"role_{engine.url.database}"

    def make(options: str) -> str:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 's3cr3t' {options}"))
        return engine.url.set(username=name, password="s3cr3t").render_as_string(False)  # noqa: S106, FBT003 - a made-up password; the flag is `hide_password`

    yield make
    with engine.begin() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {name}"))


def test_a_plain_url_connects(database_url: str, tmp_path: Path) -> None:
    """`postgresql://` as users write it; the session is named for the server's own list."""
    plain = database_url.replace("+psycopg2", "")
    engine = connect(settings_for(plain, tmp_path))
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW application_name")) == "hpo"
    engine.dispose()
    assert not (tmp_path / ".hpo").exists(), "a given server needs no folder here"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "s3cr3t"}, "wrong user name or password"),
        ({"username": "nobody_here"}, "wrong user name or password"),
        ({"database": "no_such"}, "has no database 'no_such'"),
        ({"host": "nowhere.invalid"}, "unknown host 'nowhere.invalid'"),
        ({"query": {"sslmode": "require"}}, "offers no encryption"),
    ],
)
def test_a_refused_connection_says_what_and_how_to_mend_it(
    database_url: str, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    """Each is exit code 3, names the place and a mend, and shows no password."""
    url = make_url(database_url).set(**change)
    with pytest.raises(DatabaseError, match=words) as caught:
        connect(settings_for(url.render_as_string(hide_password=False), tmp_path))
    assert caught.value.exit_code == 3
    assert f"{url.host}:{url.port}" in str(caught.value)
    assert caught.value.hint
    assert str(url.password) not in str(caught.value) + caught.value.hint


def test_nobody_listening_is_said(database_url: str, tmp_path: Path) -> None:
    """A port that nobody serves: connection refused, in words."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # bound but not listening: nobody else can take it
        url = make_url(database_url).set(port=holder.getsockname()[1])
        with pytest.raises(DatabaseError, match="nothing listens there"):
            connect(settings_for(url.render_as_string(hide_password=False), tmp_path))


def test_a_server_that_never_answers_is_said(database_url: str, tmp_path: Path) -> None:
    """A port that takes the connection and stays silent: a timeout, in words."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = make_url(database_url).set(
            port=silent.getsockname()[1], query={"connect_timeout": "2"}
        )
        with pytest.raises(DatabaseError, match="does not answer in time"):
            connect(settings_for(url.render_as_string(hide_password=False), tmp_path))


def test_a_missing_right_is_said(
    role: Callable[[str], str], engine: Engine, tmp_path: Path
) -> None:
    """A role without CONNECT is told so, with the statement that grants it."""
    url = role("")
    with engine.begin() as connection:
        connection.execute(text(f"REVOKE CONNECT ON DATABASE {engine.url.database} FROM public"))
    with pytest.raises(DatabaseError, match="no right to") as caught:
        connect(settings_for(url, tmp_path))
    assert "GRANT CONNECT" in caught.value.hint


def test_a_full_server_is_said(role: Callable[[str], str], tmp_path: Path) -> None:
    """No connection left for this role: said so, with what raises the limit."""
    url = role("CONNECTION LIMIT 1")
    first = connect(settings_for(url, tmp_path))
    with first.connect(), pytest.raises(DatabaseError, match="no connection left") as caught:
        connect(settings_for(url, tmp_path))
    assert "CONNECTION LIMIT" in caught.value.hint
    first.dispose()


def test_another_kind_of_database_is_refused(tmp_path: Path) -> None:
    """There is no SQLite mode to drift from."""
    with pytest.raises(UsageError, match="sqlite is not supported"):
        connect(settings_for("sqlite:///study.db", tmp_path))


def test_an_idle_drop_goes_unnoticed(database_url: str) -> None:
    """A pooled connection that the server ended while idle is replaced before use."""
    engine = make_engine(database_url)
    with engine.connect() as connection:
        before = connection.scalar(WHO)
    end_clients(engine)
    with engine.connect() as connection:
        assert connection.scalar(WHO) != before
    engine.dispose()


def test_a_connection_lost_in_mid_transaction_is_made_again(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole call runs again on a new connection; what the first one wrote is gone."""
    engine = make_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mark (n int)"))
    tries = []

    def call(connection: Connection) -> int | None:
        tries.append(connection.scalar(WHO))
        connection.execute(text("INSERT INTO mark VALUES (1)"))
        if len(tries) <= 2:
            end_clients(engine)
        return connection.scalar(text("SELECT count(*) FROM mark"))

    assert Database(engine, patience_s=30).run(call) == 1
    assert len(set(tries)) == 3
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM mark")) == 1
    engine.dispose()
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "trying for 30 s" in line]) == 1, "one outage, one line"
    assert any("is back" in line for line in said)


def test_a_lacking_right_is_not_waited_for(
    role: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, as the error, and nobody is told that it is tried again."""
    engine = make_engine(role(""))
    with pytest.raises(DatabaseError, match="lacks CREATE on the schema public"):
        Database(engine, patience_s=30).execute(text("CREATE TABLE public.mark (n int)"))
    engine.dispose()
    assert caplog.messages == []


def test_patience_ends(database_url: str) -> None:
    """A server that stays away is given up with an error that says where it was looked for."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        gone = make_url(database_url).set(port=port).render_as_string(hide_password=False)
        engine = make_engine(gone)
        with pytest.raises(DatabaseError, match=f"127.0.0.1:{port} refuses connections"):
            Database(engine, patience_s=0.5).scalar(WHO)
        engine.dispose()


def test_stop_ends_the_waiting(database_url: str) -> None:
    """A worker told to stop does not sit out its patience."""
    stop = threading.Event()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        gone = make_url(database_url).set(port=port).render_as_string(hide_password=False)
        engine = make_engine(gone)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(DatabaseError):
            Database(engine, patience_s=1e6, stop=stop).scalar(WHO)
        engine.dispose()


def test_a_thread_in_a_long_transaction_may_begin_another(database: Database) -> None:
    """A promotion, which holds one, brings a trial's run in MLflow up to date meanwhile."""
    with database.long_transaction() as outer, database.long_transaction() as inner:
        assert outer.scalar(WHO) != inner.scalar(WHO)


def test_a_fault_of_the_statement_is_raised_at_once(database: Database) -> None:
    """Patience is for lost connections: a broken constraint is not tried again."""
    tries = []

    def call(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("CREATE TEMP TABLE one (n int PRIMARY KEY)"))
        connection.execute(text("INSERT INTO one VALUES (1), (1)"))

    with pytest.raises(IntegrityError):
        database.run(call)
    assert len(tries) == 1


def test_a_full_disk_has_an_error_of_its_own(database: Database) -> None:
    """SQLSTATE 53100 becomes StorageFullError, and is not tried again."""

    def call(connection: Connection) -> None:
        connection.execute(text("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$"))

    with pytest.raises(StorageFullError, match="no space left"):
        database.run(call)


def test_the_private_server_is_revived_after_a_kill_but_not_after_a_stop(home: Path) -> None:
    """Killed, it comes back for the worker that needs it; stopped, it stays away until asked."""
    settings = Settings.read({"HPO_HOME": str(home), "HPO_DB_PATIENCE_S": "60"}, home.parent)
    database = Database.open(settings)
    pid = embedded.status(home).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    database.dispose()  # a server process of an open connection answers for a moment longer
    assert database.scalar(text("SELECT 1"))
    assert embedded.status(home).pid not in (None, pid)

    embedded.stop(home)
    with pytest.raises(DatabaseError):
        Database(database.engine, patience_s=0.5).scalar(WHO)
    assert embedded.status(home).pid is None

    with socket.create_server(("127.0.0.1", embedded.port(home) or 0)):
        embedded.ensure_running(home)
    assert database.scalar(WHO), "the engine follows the server to another port"
    database.dispose()


def test_a_restart_is_sat_out(home: Path) -> None:
    """A call made while the server is away waits, and succeeds when it is back."""
    engine = make_engine(embedded.ensure_running(home))
    with engine.connect() as connection:
        connection.scalar(WHO)
    embedded.stop(home)
    back = threading.Thread(target=lambda: (time.sleep(0.5), embedded.ensure_running(home)))
    back.start()
    assert Database(engine, patience_s=60).scalar(WHO)
    back.join()
    engine.dispose()
