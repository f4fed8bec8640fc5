"""Who may reach optuna-dashboard, which has no authentication of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hpo.services.dashboard import HEALTH, only_for, only_reading, with_health

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
    del environ
    start("200 OK", [])
    return [b"page"]


def status(*hosts: str, **headers: str) -> str:
    return answered(only_for(app, hosts), **headers)[0]


def answered(guarded: Any, **environ: str) -> tuple[str, bytes]:
    """Status and body."""
    said: list[str] = []
    body = b"".join(guarded(environ, lambda line, _: said.append(line)))
    return said[0], body


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "localhost", "[::1]:8080"])
def test_this_machines_browser_may(host: str) -> None:
    """By any name of the loopback, with or without an origin."""
    assert status(HTTP_HOST=host) == "200 OK"
    assert status(HTTP_HOST=host, HTTP_ORIGIN="http://localhost:8080") == "200 OK"


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_HOST": "evil.example"},
        {"HTTP_HOST": "127.0.0.1.evil.example:8080"},
        {"HTTP_HOST": "127.0.0.1:8080", "HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_HOST": "127.0.0.1:8080", "HTTP_ORIGIN": "null"},
        {},
    ],
)
def test_another_sites_page_may_not(headers: dict[str, str]) -> None:
    """A rebound name or a foreign origin is turned away."""
    assert status(**headers).startswith("403")


def test_named_hosts_may_too() -> None:
    """Those of HPO_DASHBOARD_HOSTS, as Host and as Origin, in any case; and no others."""
    assert status("dashboard", HTTP_HOST="Dashboard:8080") == "200 OK"
    assert status("dashboard", HTTP_HOST="localhost", HTTP_ORIGIN="https://dashboard") == "200 OK"
    assert status("dashboard", HTTP_HOST="dashboard.evil.example").startswith("403")
    assert (
        status("dashboard", HTTP_HOST="dashboard", HTTP_ORIGIN="http://evil.example")[:3] == "403"
    )


@pytest.mark.parametrize("host", ["[", "[::1", "a:b:c]"])
def test_a_broken_host_is_nobodys(host: str) -> None:
    """What is no address is refused, not an error of ours."""
    assert status(HTTP_HOST=host).startswith("403")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_reading_dashboard_refuses_what_could_write(method: str) -> None:
    """403 with a reason, as JSON, before optuna-dashboard sees it; reading goes on."""
    line, body = answered(only_reading(app), REQUEST_METHOD=method)
    assert line == "403 Forbidden"
    assert "only reads" in json.loads(body)["reason"]
    assert answered(only_reading(app), REQUEST_METHOD="GET") == ("200 OK", b"page")


def test_a_probe_is_answered_by_any_name() -> None:
    """A probe comes by an address that nobody listed; it learns whether the database answers."""

    def away() -> None:
        raise ConnectionError("s3cr3t place")

    def by_probe(look: Callable[[], None]) -> tuple[str, bytes]:
        guarded = with_health(only_for(app), look)
        return answered(guarded, PATH_INFO=HEALTH, HTTP_HOST="10.0.0.7:8080")

    assert by_probe(lambda: None)[0] == "200 OK"
    line, body = by_probe(away)
    assert line.startswith("503")
    assert b"s3cr3t" not in body
    assert answered(with_health(only_for(app), away), PATH_INFO="/", HTTP_HOST="x")[0][:3] == "403"
