"""Serve optuna-dashboard in a process of its own, behind WSGI middleware that guards it.

    HPO_HOME=… python -m hpo.services.dashboard PORT [ARTIFACT_FOLDER]

optuna-dashboard's own command wants the database's URL, password included, as an argument that
every user of the machine can read. It listens at 127.0.0.1 unless HPO_DASHBOARD_BIND says
otherwise, as the role of HPO_DASHBOARD_STORAGE, else of HPO_READER_STORAGE, else of HPO_STORAGE,
and begins when the database has its tables.

It has no login: who reaches it may finish and delete. So only requests pass whose Host and Origin
are this machine's loopback or named hosts, which keeps out pages of other sites in the visitor's
browser, and where its role may only read, nothing that would write gets as far as PostgreSQL.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from hpo.errors import HpoError, SchemaError
from hpo.host.processes import HOST
from hpo.settings import Settings
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import make_engine, reconnect_to_embedded, storage_url
from hpo.storage.postgres.errors import explain, is_passing
from hpo.storage.postgres.url import mask, normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sqlalchemy import Engine

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEALTH = "/healthz"
READING = ("GET", "HEAD", "OPTIONS")


def for_any_client(app: WSGIApplication) -> WSGIApplication:
    """`app`, asked as by a browser: optuna-dashboard fails where no Accept-Encoding is sent."""

    def asked(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")
        return app(environ, start)

    return asked


def only_for(app: WSGIApplication, hosts: Collection[str] = ()) -> WSGIApplication:
    """`app`, refusing requests whose Host or Origin is neither loopback nor one of `hosts`."""
    welcome = {*LOOPBACK, *(host.lower() for host in hosts)}

    def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN")
        asked = [_host(f"//{environ.get('HTTP_HOST', '')}")]
        if origin is not None:
            asked.append(_host(origin))
        if all(host in welcome for host in asked):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"Only for this machine's own browser and the hosts of HPO_DASHBOARD_HOSTS.\n"]

    return guarded


def only_reading(app: WSGIApplication) -> WSGIApplication:
    """`app`, refusing every request that could write; the page shows the reason."""

    def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return app(environ, start)
        # As optuna-dashboard's own API says what is wrong
        return _say(start, "403 Forbidden", "This dashboard only reads: nothing was changed.")

    return guarded


def with_health(app: WSGIApplication, look: Callable[[], None]) -> WSGIApplication:
    """`app`, and a page for probes, which come by any name: 200 where `look` raises nothing."""

    def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != HEALTH:
            return app(environ, start)
        try:
            look()
        except Exception:
            log.exception("not healthy")
            return _say(start, "503 Service Unavailable", "The database does not answer.")
        return _say(start, "200 OK", "It serves.")

    return guarded


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # no address at all, so nobody's
        return None


def _say(start: StartResponse, status: str, reason: str) -> list[bytes]:
    start(status, [("Content-Type", "application/json")])
    return [json.dumps({"reason": reason}).encode()]


POLL_S = 2.0
SAY_AGAIN_S = 30.0
MAY_WRITE = text("""
select current_setting('transaction_read_only') = 'off'  -- the role's setting; on at a standby
       and has_table_privilege('public.studies', 'INSERT, UPDATE, DELETE')
""")


class Server(ThreadingMixIn, WSGIServer):
    """A server with a thread a request: one slow page does not hold up the others."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """A request handler that logs nothing: the log of a server left running must not grow."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        del format, args


def dashboard(
    engine: Engine, *, folder: str | None, env: Mapping[str, str], home: Path | None
) -> WSGIApplication:
    """optuna-dashboard on a database whose tables exist, behind its guards.

    Args:
        engine: the database, for probes and to ask what its role may do.
        folder: where the dashboard's artifacts are; None for none.
        env: HPO_DASHBOARD_HOSTS and HPO_DASHBOARD_READ_ONLY.
        home: the `.hpo` folder of the private server; None when it is another server.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi

    url = engine.url.render_as_string(hide_password=False)
    storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True}, skip_table_creation=True)
    if home is not None:
        reconnect_to_embedded(storage.engine, home)
    store = None
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(folder)
    app = for_any_client(wsgi(storage, artifact_store=store))
    if env.get("HPO_DASHBOARD_READ_ONLY") == "1" or not may_write(engine):
        log.info("It only reads: nobody can finish, change or delete a study here.")
        app = only_reading(app)
    hosts = [name.strip() for name in env.get("HPO_DASHBOARD_HOSTS", "").split(",")]
    return with_health(only_for(app, [name for name in hosts if name]), lambda: _ping(engine))


def may_write(engine: Engine) -> bool:
    """Whether the engine's role may change or delete studies, where it is let."""
    with engine.connect() as connection:
        return bool(connection.scalar(MAY_WRITE))


def wait_for_tables(engine: Engine) -> None:
    """Return when the database answers and has the tables of this version; says what is awaited.

    Raises:
        HpoError: what no waiting mends: a wrong password, a lacking right, a newer database.
    """
    said, said_at = "", float("-inf")
    while True:
        try:
            schema.check(engine)
        except (DBAPIError, SchemaError) as error:
            reason = error if isinstance(error, SchemaError) else explain(error, str(engine.url))
            if reason is None or not _may_pass(error, engine):
                raise reason or error from error
            if str(reason) != said or time.monotonic() - said_at >= SAY_AGAIN_S:
                said, said_at = str(reason), time.monotonic()
                log.info("Waiting for the tables of %s: %s", mask(str(engine.url)), reason)
            time.sleep(POLL_S)
        else:
            return


def _may_pass(error: DBAPIError | SchemaError, engine: Engine) -> bool:
    if isinstance(error, DBAPIError):
        return is_passing(error)
    with engine.connect() as connection:
        revision = schema.revisions(connection)[1]
    # Then an `hpo provision` is on its way
    return revision is None or schema.FIRST <= revision < schema.HEAD


def _ping(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("select 1"))


def _storage(settings: Settings, env: Mapping[str, str]) -> tuple[str, Path | None]:
    """The database's URL, and the folder of its server where it is the private one."""
    given = env.get("HPO_DASHBOARD_STORAGE") or env.get("HPO_READER_STORAGE")
    if given:
        return normalise(given), None
    return storage_url(settings), settings.home if settings.storage is None else None


def main(words: list[str]) -> None:
    """Serve until the process is ended."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # As the first process of a container it would not hear SIGTERM otherwise
    signal.signal(signal.SIGTERM, _leave)
    settings = Settings.read()
    url, home = _storage(settings, os.environ)
    engine = make_engine(url, pool_size=1, home=home)
    wait_for_tables(engine)
    app = dashboard(engine, folder=words[1] if len(words) > 1 else None, env=os.environ, home=home)
    bind = os.environ.get("HPO_DASHBOARD_BIND") or HOST
    server = make_server(bind, int(words[0]), app, server_class=Server, handler_class=Quiet)
    log.info("optuna-dashboard serves at %s:%s", bind, words[0])
    server.serve_forever()


def _leave(*_: Any) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HpoError as error:
        sys.exit(f"hpo.services.dashboard: {error}\n  {error.hint}")
