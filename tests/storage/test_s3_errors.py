"""S3 in trouble, over real HTTP: what passes is repeated, what does not is told with its mend."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from faults.http_proxy import NONE, Fault
from support.s3_server import Answer, TroubledS3, page, refusal
from support.stores import shapes

from hpo.cli.main import cli
from hpo.errors import HpoError, StoreError, UsageError
from hpo.storage.artifacts.s3 import PART_BYTES, S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.s3_server import S3Server

    from hpo.settings import Settings

EU = "eu-west-1"
REGION = f"AWS_DEFAULT_REGION={EU}"
ENDPOINT = "AWS_ENDPOINT_URL"

# name -> (every answer, what is raised, its exit code, what its hint says)
TROUBLES: dict[str, tuple[Answer, str, int, str]] = {
    "busy": (refusal(503, "SlowDown", "Please reduce your request rate."), "SlowDown", 3, "doctor"),
    "broken": (refusal(500, "InternalError", "Try again."), "InternalError", 3, "doctor"),
    "forbidden": (refusal(403, "AccessDenied", "Access Denied"), "AccessDenied", 2, "s3:PutObject"),
    "a wrong key": (
        refusal(403, "SignatureDoesNotMatch", "It does not match"),
        "SignatureDoesNotMatch", 2, "AWS_SECRET_ACCESS_KEY",
    ),
    "no bucket": (
        refusal(404, "NoSuchBucket", "It does not exist"), "NoSuchBucket", 2, "aws s3 mb",
    ),
    "a wrong clock": (
        refusal(403, "RequestTimeTooSkewed", "Too large"), "RequestTimeTooSkewed", 2, "clock",
    ),
    "full": (refusal(507, "InsufficientStorage", "Full"), "no space left", 3, "quota"),
    "over its quota": (refusal(403, "QuotaExceeded", "Enough"), "no space left", 3, "quota"),
    "another region": (
        refusal(301, "PermanentRedirect", "Elsewhere", x_amz_bucket_region=EU),
        "PermanentRedirect", 2, REGION,
    ),
    "a key of another region": (
        refusal(400, "AuthorizationHeaderMalformed", "Expecting it", f"<Region>{EU}</Region>"),
        "AuthorizationHeaderMalformed", 2, REGION,
    ),
    "a region unsaid": (
        refusal(301, "PermanentRedirect", "Elsewhere"), "PermanentRedirect", 2, "set AWS_DEFAULT",
    ),
    "a login page": (page(302, Location="http://login.example.org/"), "status 302", 2, ENDPOINT),
    "a web page": (page(200), "not what is read there", 2, ENDPOINT),
    "no such page": (page(404), "is it an S3 server", 2, ENDPOINT),
    "a login": (page(401), "401", 2, ENDPOINT),
}  # fmt: skip


@pytest.fixture
def store(troubled: TroubledS3, s3_server: S3Server) -> S3Store:
    """Behind the trouble."""
    del troubled
    return S3Store(s3_server.bucket, "lab")


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_is_told_with_its_mend(troubled: TroubledS3, store: S3Store, name: str) -> None:
    """Exit code 2 for what stays until it is mended, 3 for what may pass; in a few requests."""
    answer, said, code, hint = TROUBLES[name]
    troubled.trouble = lambda _: answer
    with pytest.raises(UsageError if code == 2 else StoreError, match=said) as why:
        store.require_writable()
    assert hint in why.value.hint
    assert why.value.exit_code == code
    assert len(troubled.asked) <= 6  # a probe takes five
    troubled.trouble = lambda _: None
    store.require_writable()


@pytest.mark.parametrize("times", [1, 2])
def test_a_busy_server_is_asked_again(
    troubled: TroubledS3, store: S3Store, tmp_path: Path, times: int
) -> None:
    """Each request up to three times, each part of a large file too."""
    store.require_writable()
    seen: dict[str, int] = {}

    def sometimes(line: str) -> Answer | None:
        seen[line] = seen.get(line, 0) + 1
        return refusal(503, "SlowDown", "Slow down") if seen[line] <= times else None

    troubled.trouble = sometimes
    file = tmp_path / "big"
    file.write_bytes(os.urandom(2 * PART_BYTES + 1))
    stored = store.put(file)
    assert store.size_of(stored.sha256) == stored.size
    assert store.fetch(stored.sha256, tmp_path / "again").read_bytes() == file.read_bytes()
    assert len([line for line in seen if "partNumber=" in line]) == 3
    assert set(seen.values()) == {times + 1}


def test_a_broken_download_goes_on_where_it_broke(
    troubled: TroubledS3, store: S3Store, tmp_path: Path
) -> None:
    """Of a large dataset no minute is downloaded twice."""
    file = tmp_path / "big"
    file.write_bytes(os.urandom(5 << 20))
    sha256 = store.put(file).sha256
    troubled.fault = Fault(cut=True, share=0.5, only=f"/{sha256}")
    store.fetch(sha256, tmp_path / "whole")
    troubled.asked.clear()
    assert store.fetch(sha256, tmp_path / "broken").read_bytes() == file.read_bytes()
    assert [given for _, given in troubled.asked] == [None, f"bytes={5 << 19}-"]


def test_a_download_that_breaks_for_ever_is_an_outage(
    troubled: TroubledS3, store: S3Store, tmp_path: Path
) -> None:
    """After three tries without a byte in between; nothing of it is left."""
    file = tmp_path / "small"
    file.write_bytes(b"x")
    sha256 = store.put(file).sha256
    troubled.fault = Fault(cut=True)
    with pytest.raises(StoreError, match="cannot be reached"):
        store.fetch(sha256, tmp_path / "broken")
    assert len([line for line, _ in troubled.asked if line.startswith("GET")]) == 3
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["small"]
    troubled.fault = NONE
    store.fetch(sha256, tmp_path / "broken")


@pytest.fixture
def no_s3() -> Iterator[Callable[[bytes], str]]:
    """Starts a server that answers with these bytes and hangs up; its address."""
    sockets: list[socket.socket] = []

    def start(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def serve() -> None:
            while True:
                try:
                    one, _ = listener.accept()
                except OSError:
                    return  # the test is over
                with one:
                    one.recv(1000)
                    one.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for one in sockets:
        one.shutdown(socket.SHUT_RDWR)
        one.close()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_another_service_is_told(
    store: S3Store, no_s3: Callable[[bytes], str], aws_env: pytest.MonkeyPatch, answer: bytes
) -> None:
    """It listens and is no web server: nobody knows whether it will be one."""
    aws_env.setenv(ENDPOINT, no_s3(answer))
    with pytest.raises(StoreError, match="cannot be reached") as why:
        store.require_writable()
    assert ENDPOINT in why.value.hint


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["busy", "forbidden", "no bucket", "full", "another region"])
def test_the_command_line_tells_it(
    troubled: TroubledS3, store: S3Store, settings: Settings, clean_env: pytest.MonkeyPatch,
    name: str,
) -> None:  # fmt: skip
    """Before a dataset is packed: `hpo data push` ends with the right exit code."""
    answer, said, code, hint = TROUBLES[name]
    folder = settings.home.parent
    clean_env.chdir(folder)
    clean_env.setenv("HPO_STORAGE", str(settings.storage))
    clean_env.setenv("HPO_ARTIFACTS", store.place)
    troubled.trouble = lambda _: answer
    result = CliRunner().invoke(cli, ["data", "push", str(shapes(folder / "set"))])
    assert isinstance(result.exception, HpoError)
    assert (result.exception.exit_code, said in str(result.exception)) == (code, True)
    assert hint in result.exception.hint
    assert not settings.dataset_cache.exists()
