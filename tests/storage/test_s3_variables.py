"""A variable for S3 that is no such thing: which one, at once, as wrong input."""

from __future__ import annotations

import socket
import ssl
import threading
import traceback
from typing import TYPE_CHECKING

import pytest
from support.s3_server import refusal

from hpo.errors import UsageError
from hpo.storage.artifacts.s3 import S3Store, ensure_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.proxies import Certificates
    from support.s3_server import S3Server, TroubledS3

ENDPOINT = "AWS_ENDPOINT_URL"


def refused(bucket: str = "lab") -> UsageError:
    with pytest.raises(UsageError) as why:
        S3Store(bucket, "").require_writable()
    assert why.value.exit_code == 2
    return why.value


@pytest.mark.parametrize("name", ["AWS_DEFAULT_REGION", "AWS_REGION"])
def test_a_region_that_is_none_is_named(aws_env: pytest.MonkeyPatch, name: str) -> None:
    """And not the endpoint, which may be right."""
    aws_env.setenv(ENDPOINT, "http://127.0.0.1:9")
    aws_env.setenv(name, "b ad")
    error = refused()
    assert "'b ad'" in str(error)
    assert name in error.hint
    assert ENDPOINT not in error.hint


def test_a_region_of_a_file_is_named(aws_env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no variable gives one."""
    (tmp_path / "config").write_text("[default]\nregion = b ad\n")
    aws_env.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "~/.aws/config" in refused().hint


@pytest.mark.parametrize("given", ["127.0.0.1:9", "nonsense"])
def test_an_endpoint_that_is_none_is_named(aws_env: pytest.MonkeyPatch, given: str) -> None:
    """With the form that it has."""
    aws_env.setenv(ENDPOINT, given)
    assert ENDPOINT in refused().hint


@pytest.mark.parametrize("given", ["http://key:s3cr3t@127.0.0.1:9", "key:s3cr3t@127.0.0.1:9"])
def test_an_endpoint_with_a_key_is_not_repeated(aws_env: pytest.MonkeyPatch, given: str) -> None:
    """Neither in the error nor below it."""
    aws_env.setenv(ENDPOINT, given)
    error = refused()
    assert "holds a user or a key" in str(error)
    assert "s3cr3t" not in "".join(traceback.format_exception(error)) + error.hint


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("file", ["nowhere.crt", "empty.crt", ""])
def test_certificates_that_cannot_be_read_are_named(
    aws_env: pytest.MonkeyPatch, tmp_path: Path, name: str, file: str
) -> None:
    """The variable and the file: absent, of something else, or a folder."""
    (tmp_path / "empty.crt").write_text("nothing\n")
    aws_env.delenv("REQUESTS_CA_BUNDLE", raising=False)
    aws_env.setenv(ENDPOINT, "https://127.0.0.1:9")
    aws_env.setenv(name, str(tmp_path / file))
    error = refused()
    assert f"{name} is {tmp_path / file}" in str(error)
    assert name in error.hint


def test_certificates_are_not_looked_at_without_tls(
    s3_server: S3Server, aws_env: pytest.MonkeyPatch
) -> None:
    """Without TLS none are needed: another program's variable is no hindrance."""
    aws_env.setenv("AWS_CA_BUNDLE", "/nowhere.crt")
    S3Store(s3_server.bucket, "").require_writable()


def test_https_to_a_server_of_http_is_told(
    s3_server: S3Server, aws_env: pytest.MonkeyPatch
) -> None:
    """In words, and not as the version number that the encryption makes of the answer."""
    aws_env.setenv(ENDPOINT, s3_server.url.replace("http:", "https:"))
    error = refused(s3_server.bucket)
    assert "answers in plain http" in str(error)
    assert "AWS_ENDPOINT_URL with http://" in error.hint


@pytest.fixture
def tls_port(certificates: Certificates) -> Iterator[int]:
    """Of a server that shows a certificate and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return  # the test is over
            try:
                certificates.context().wrap_socket(one, server_side=True).close()
            except OSError:
                one.close()  # its client does not trust it

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_certificate_of_nobody_is_told(
    tls_port: int, certificates: Certificates, aws_env: pytest.MonkeyPatch
) -> None:
    """With the variable that names its authority; with another authority's file as well."""
    aws_env.delenv("REQUESTS_CA_BUNDLE", raising=False)
    aws_env.setenv(ENDPOINT, f"https://127.0.0.1:{tls_port}")
    aws_env.setenv("AWS_ACCESS_KEY_ID", "key")
    aws_env.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert "not trusted here" in str(refused())
    aws_env.setenv("AWS_CA_BUNDLE", str(certificates.stranger))
    error = refused()
    assert "not trusted here" in str(error)
    assert "AWS_CA_BUNDLE" in error.hint
    with socket.create_connection(("127.0.0.1", tls_port)) as plain:
        trusting = ssl.create_default_context(cafile=certificates.authority)
        trusting.wrap_socket(plain, server_hostname="127.0.0.1").close()


@pytest.mark.parametrize("bucket", ["My_Lab", "Lab", "lab-", "la..b", "10.0.0.1", "x-s3alias"])
def test_no_bucket_is_proposed_whose_name_cannot_be(s3_server: S3Server, bucket: str) -> None:
    """Amazon refuses to make it."""
    del s3_server
    error = refused(bucket)
    assert "aws s3 mb" not in error.hint
    assert f"no bucket can be called '{bucket}'" in error.hint
    assert "aws s3 mb s3://lab-2.x" in refused("lab-2.x").hint


def test_a_bucket_that_the_server_refuses_to_make_is_told(troubled: TroubledS3) -> None:
    """To `hpo provision`, which asks for it, too."""
    answers = {
        "HEAD": refusal(404, "NoSuchBucket", "It does not exist"),
        "PUT": refusal(400, "InvalidBucketName", "The specified bucket is not valid."),
    }
    troubled.trouble = lambda line: answers[line.split()[0]]
    with pytest.raises(UsageError, match="InvalidBucketName") as why:
        ensure_bucket(S3Store("My_Lab", ""))
    assert "no bucket can be called 'My_Lab'" in why.value.hint
