"""A real HTTP server before a real S3 server, which answers as Amazon and others do in trouble."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults.http_proxy import HttpProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.server import BaseHTTPRequestHandler

    from support.s3_server import S3Server

Answer = tuple[int, list[tuple[str, str]], bytes]

_BODY = (
    "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message>{}</Error>"
)


def refusal(status: int, code: str, message: str, more: str = "", **headers: str) -> Answer:
    """An error as S3 writes it."""
    body = _BODY.format(code, message, more).encode()
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return status, [("Content-Type", "application/xml"), *named], body


def page(status: int, **headers: str) -> Answer:
    """What a web server that is no S3 says."""
    return status, [("Content-Type", "text/html"), *headers.items()], b"<html>hello</html>"


class TroubledS3(HttpProxy):
    """A proxy that answers some requests itself.

    Attributes:
        trouble: gives the answer to a request, by its line `METHOD path`; None hands it on.
        asked: each request's line and its header `Range`.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.trouble: Callable[[str], Answer | None] = lambda _: None
        self.asked: list[tuple[str, str | None]] = []

    def pass_on(self, handler: BaseHTTPRequestHandler) -> Answer:
        line = f"{handler.command} {handler.path}"
        self.asked.append((line, handler.headers.get("Range")))
        answer = self.trouble(line)
        if answer is None:
            return super().pass_on(handler)
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        status, headers, body = answer
        return status, headers, b"" if handler.command == "HEAD" else body


@pytest.fixture
def troubled(s3_server: S3Server, aws_env: pytest.MonkeyPatch) -> Iterator[TroubledS3]:
    """In front of the server, and what this process's environment names."""
    with TroubledS3(s3_server.url) as proxy:
        aws_env.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
