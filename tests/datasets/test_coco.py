"""COCO128 comes over HTTP whole or with a clear error; a real server on loopback answers."""

from __future__ import annotations

import io
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from hpo.datasets.coco import OTHER_WAY, address, downloaded
from hpo.errors import DatasetError, HpoError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def serve() -> Iterator[Callable[[bytes, int], str]]:
    """Serves one body, claiming it longer by some bytes; returns its address."""
    servers = []

    def start(body: bytes, missing: int = 0) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/coco128.zip":
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body) + missing))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/coco128.zip"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("UP", ".."), text)
    return buffer.getvalue()


GOOD = zipped(coco128__images__train2017__a="image", coco128__labels__train2017__a="label")


def refused(url: str) -> HpoError:
    with pytest.raises(HpoError) as caught, downloaded(url):
        pytest.fail("it was taken")
    assert caught.value.hint == OTHER_WAY
    return caught.value


def test_the_address_is_ultralytics_own() -> None:
    """Read from the YAML that the installed Ultralytics carries."""
    assert address().startswith("https://")
    assert address().endswith("/coco128.zip")


def test_a_download_is_there_until_the_block_ends(serve: Callable[[bytes], str]) -> None:
    """Unpacked, with progress to the last byte, and gone after."""
    told: list[tuple[int, int]] = []
    with downloaded(serve(GOOD), progress=lambda *now: told.append(now)) as folder:
        assert folder.name == "coco128"
        assert (folder / "images/train2017/a").read_text() == "image"
        assert (folder / "labels/train2017/a").read_text() == "label"
    assert told[-1] == (len(GOOD), len(GOOD))
    assert not folder.exists()


def test_nobody_answers() -> None:
    """A service that cannot be reached: exit 3, and the other way is named."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/coco128.zip"
        error = refused(url)
    assert isinstance(error, ServiceError)
    assert error.exit_code == 3
    assert str(error).startswith(f"COCO128 cannot be downloaded from {url}: ")


def test_a_missing_file(serve: Callable[[bytes], str]) -> None:
    """The server's answer is told."""
    error = refused(serve(GOOD).replace("coco128.zip", "other.zip"))
    assert isinstance(error, ServiceError)
    assert "404" in str(error)


def test_a_broken_transfer(serve: Callable[[bytes, int], str]) -> None:
    """Fewer bytes than announced are not unpacked."""
    error = refused(serve(GOOD, 5))
    assert isinstance(error, ServiceError)
    assert f"{len(GOOD)} bytes came, expected {len(GOOD) + 5}" in str(error)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"<html>log in first</html>", "not a sound zip file"),
        (GOOD.replace(b"aimage", b"aimagX"), "not a sound zip file: Bad CRC"),
        (zipped(coco128__readme="x"), "no folder images/train2017"),
        (zipped(coco128__UP__UP__evil="x"), "a member that leaves its folder"),
    ],
)
def test_what_is_no_coco128_is_refused(
    serve: Callable[[bytes], str], body: bytes, fault: str
) -> None:
    """A login page, a damaged archive, another one, and one that writes elsewhere."""
    with pytest.raises(DatasetError, match=fault), downloaded(serve(body)):
        pytest.fail("it was taken")


def test_only_http_is_asked() -> None:
    """A file address in a data YAML reads nothing of this machine."""
    assert "expected an http address" in str(refused("file:///etc/hostname"))
