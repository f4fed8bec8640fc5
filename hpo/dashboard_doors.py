"""Who may ask optuna-dashboard for what: WSGI guards around it; knows no database.

It has no login: who reaches it may finish and delete. So only requests pass whose Host and Origin
are this machine's loopback or named hosts, which keeps out pages of other sites in the visitor's
browser, and where its role may only read, nothing that would write gets as far as PostgreSQL.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

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
