"""A reverse proxy over HTTP, in threads, whose faults are switched while it runs."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing import Self

_PATIENCE_S = 300.0  # for the server behind; the faults are the proxy's own
_OWN = ("connection", "keep-alive", "transfer-encoding", "content-length")  # of one leg of the way


@dataclass(frozen=True)
class Fault:
    """What the proxy does to requests; nothing by default.

    Attributes:
        delay_s: seconds that each call waits before it is handed on.
        status: what it is answered with instead of being handed on; 0: nothing.
        cut: whether the connection is closed in the middle of the answer; the server behind has
            done what it was asked.
        share: how many of the requests meet `status` or `cut`, from 0 to 1, evenly spread.
        only: a part of the path of those that do; "" for all.
        refuse: whether nothing listens: connections are refused, open ones closed.
    """

    delay_s: float = 0.0
    status: int = 0
    cut: bool = False
    share: float = 1.0
    only: str = ""
    refuse: bool = False


NONE = Fault()


class HttpProxy:
    """A proxy on a port of its own; a context manager.

    Args:
        target: address of the server behind, `http://HOST:PORT`.
    """

    def __init__(self, target: str, fault: Fault = NONE) -> None:
        self._target = urlsplit(target).netloc
        self._lock = threading.Lock()
        self._fault, self._matching = NONE, 0
        self.seen: list[str] = []  # "METHOD path" of every request, the earliest first
        # Bound for the proxy's whole life and never listening: the port stays ours while refusing.
        self._holder = _bound(0)
        self._port = int(self._holder.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._server: _Server | None = None
        self.fault = fault

    @property
    def fault(self) -> Fault:
        """What it does now; may be set at any time, and counts from the next request."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        with self._lock:
            self._fault, self._matching = fault, 0
        if fault.refuse:
            self._stop()
        elif self._server is None:
            self._server = _Server(_bound(self._port), self)

    def meets(self, request: str) -> tuple[Fault, bool]:
        """(the present fault, whether this request is one of its share), counting it."""
        with self._lock:
            self.seen.append(request)
            fault = self._fault
            if fault.only not in request:
                return fault, False
            before, self._matching = self._matching, self._matching + 1
            return fault, int(self._matching * fault.share) > int(before * fault.share)

    def pass_on(self, handler: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
        """(status, headers, body) of the server behind."""
        size = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(size)
        way = http.client.HTTPConnection(self._target, timeout=_PATIENCE_S)
        try:
            # The Host header goes along as it came: MLflow's server looks at it.
            way.request(handler.command, handler.path, body, dict(handler.headers.items()))
            answer = way.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            way.close()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop()
        self._holder.close()


class _Server(ThreadingHTTPServer):
    """The listening half; a new one after each refusal."""

    daemon_threads = True
    block_on_close = False  # a delayed call does not hold up the test's end

    def __init__(self, listener: socket.socket, proxy: HttpProxy) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.proxy = listener, proxy
        self.open: set[socket.socket] = set()
        self.server_activate()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def end(self) -> None:
        """Listen no more, and close what is open."""
        self.shutdown()
        self.server_close()
        for connection in list(self.open):
            _hang_up(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: else 40 ms a request
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def parse_request(self) -> bool:
        """Any method is the same to a proxy: BaseHTTPRequestHandler looks for `do_<method>`."""
        good = super().parse_request()
        if good:
            setattr(self, f"do_{self.command}", self._serve)
        return good

    def _serve(self) -> None:
        fault, meets = self.server.proxy.meets(f"{self.command} {self.path}")
        time.sleep(fault.delay_s)
        if fault.status and meets:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(fault.status, [("Content-Type", "text/plain")], b"planted\n")
            return
        status, headers, body = self.server.proxy.pass_on(self)
        self._answer(status, headers, body, cut=fault.cut and meets)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        size = str(len(body))
        for name, value in headers:
            if name.lower() not in _OWN:
                self.send_header(name, value)
            elif name.lower() == "content-length" and self.command == "HEAD":
                size = value  # of the body that GET would bring
        self.send_header("Content-Length", size)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True
            _hang_up(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base names it so
        """Say nothing: the test says what matters."""


def _bound(port: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", port))
    return one


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the client was quicker
