"""optuna-dashboard's process, started by `hpo up`; knows no study.

    HPO_HOME=… python -m hpo.dashboard_app PORT [ARTIFACT_FOLDER]

optuna-dashboard's own command wants the database's URL, password included, as an argument that
every user of the machine can read. It also has no authentication, so a page of another site could
reach it through the visitor's browser: only requests meant for this machine's loopback pass.
"""

from __future__ import annotations

import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from hpo.database.engine import follow, storage_url
from hpo.ports import HOST
from hpo.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Server(ThreadingMixIn, WSGIServer):
    """A thread a request: one slow page does not hold up the others."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Requests are not logged: the log of a server left running must not grow."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        del format, args


def loopback_only(app: WSGIApplication) -> WSGIApplication:
    """`app`, refusing requests whose Host or Origin is not this machine's loopback."""

    def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN")
        hosts = [urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname]
        if origin is not None:
            hosts.append(urlsplit(origin).hostname)
        if all(host in LOOPBACK for host in hosts):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"Only for this machine's own browser.\n"]

    return guarded


def dashboard(url: str, *, folder: str | None, home: Path | None) -> WSGIApplication:
    """optuna-dashboard on the database `url`, whose tables exist.

    Args:
        url: the database.
        folder: where the dashboard's artifacts are; None for none.
        home: the `.hpo` folder of the private server; None when it is another server.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi

    storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True}, skip_table_creation=True)
    if home is not None:
        follow(storage.engine, home)
    store = None
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(folder)
    return loopback_only(wsgi(storage, artifact_store=store))


def main(words: list[str]) -> None:
    """Serve until the process is ended."""
    settings = Settings.read()
    app = dashboard(
        storage_url(settings),
        folder=words[1] if len(words) > 1 else None,
        home=settings.home if settings.storage is None else None,
    )
    server = make_server(HOST, int(words[0]), app, server_class=Server, handler_class=Quiet)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
