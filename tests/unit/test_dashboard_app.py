"""Who may reach optuna-dashboard, which has no authentication of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hpo.dashboard_app import loopback_only

if TYPE_CHECKING:
    from collections.abc import Iterable


def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
    del environ
    start("200 OK", [])
    return [b"page"]


def status(**headers: str) -> str:
    said: list[str] = []
    loopback_only(app)(headers, lambda line, _: said.append(line))
    return said[0]


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
