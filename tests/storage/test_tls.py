"""`sslmode` from HPO_STORAGE is libpq's: what it asks for holds for everything that hpo opens."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from support.proxies import Certificates, Front
from support.studies import simulated_study

from hpo.errors import DatabaseError
from hpo.host.processes import any_free
from hpo.storage.postgres import schema
from hpo.storage.postgres.embedded_files import server_user
from hpo.storage.postgres.engine import connect, retry_while_unavailable
from hpo.studies.store import list_studies
from hpo.tracking.uri import tracking_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.settings import Settings

SYSTEM = Path("/usr/lib/postgresql")  # Debian's, built with TLS


@pytest.fixture
def front(database_url: str, certificates: Certificates) -> Iterator[Front]:
    """TLS before the tests' server."""
    one = Front(make_url(database_url).port or 5432, certificates.context())
    one.open()
    yield one
    one.close()


def through(settings: Settings, front: Front, host: str = "127.0.0.1", **options: str) -> Settings:
    """Settings whose HPO_STORAGE leads through the front."""
    url = make_url(settings.storage or "").set(host=host, port=front.port, query=options)
    return replace(settings, storage=url.render_as_string(hide_password=False))


def test_a_study_is_made_and_read_encrypted(
    settings: Settings, front: Front, certificates: Certificates
) -> None:
    """With verify-full every connection is encrypted, Optuna's and ours, and MLflow's would be."""
    secure = through(
        settings, front, sslmode="verify-full", sslrootcert=str(certificates.authority)
    )
    engine = connect(secure)
    schema.upgrade(engine)
    study = simulated_study(engine)
    assert [one.name for one in list_studies(engine)] == [study.name]
    engine.dispose()
    assert front.encrypted >= 1
    assert front.plain == 0
    assert make_url(tracking_uri(secure, secure.storage or "")).query["sslmode"] == "verify-full"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("127.0.0.1", "stranger"), "do not vouch for"),
        (("127.0.0.1", "missing"), "does not exist"),
        (("localhost", "authority"), "another host's name"),
    ],
)
def test_a_certificate_that_is_not_right_is_said_at_once(
    settings: Settings, front: Front, certificates: Certificates, wrong: tuple[str, str], words: str
) -> None:
    """It is final, not an outage to wait for: exit code 3, with what to change."""
    host, file = wrong
    path = str(getattr(certificates, file, "/nowhere/ca.crt"))
    insecure = through(settings, front, host, sslmode="verify-full", sslrootcert=path)
    begun = time.monotonic()
    with pytest.raises(DatabaseError, match=words) as caught:
        retry_while_unavailable(lambda: connect(insecure), insecure.storage or "", patience_s=60)
    assert time.monotonic() - begun < 10
    assert caught.value.exit_code == 3
    said = str(caught.value) + caught.value.hint
    assert "sslrootcert" in said or "sslmode=verify-ca" in said
    assert str(make_url(insecure.storage or "").password) not in said


def test_require_is_not_content_with_less(settings: Settings) -> None:
    """A server without TLS is refused where sslmode asks for it, not taken unencrypted."""
    url = make_url(settings.storage or "").set(query={"sslmode": "require"})
    with pytest.raises(DatabaseError, match="offers no encryption"):
        connect(replace(settings, storage=url.render_as_string(hide_password=False)))


@pytest.fixture
def secure_server(certificates: Certificates, tmp_path: Path) -> Iterator[str]:
    """URL of a PostgreSQL with `ssl = on` that takes nobody unencrypted."""
    found = sorted(SYSTEM.glob("*/bin/postgres"))
    if not found:
        pytest.skip("no PostgreSQL with TLS is installed (Debian's package `postgresql`)")
    programs, port, data = found[-1].parent, any_free(), tmp_path / "server" / "data"
    data.mkdir(parents=True)
    user = server_user(data, programs)
    for path in (certificates.server, certificates.key):
        shutil.copy(path, data.parent)
    (data.parent / "password").write_text("made-up-password")
    user.own(data.parent)
    initdb = (programs / "initdb", "-D", data, "-U", "hpo", "-A", "scram-sha-256")
    subprocess.run(
        [*user.prefix, *initdb, f"--pwfile={data.parent}/password"], check=True, cwd=data.parent
    )
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    options = {
        "ssl": "on",
        "ssl_cert_file": f"{data.parent}/server.crt",
        "ssl_key_file": f"{data.parent}/server.key",
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
    }
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    process = subprocess.Popen(
        [*user.prefix, programs / "postgres", "-D", data, *words], cwd=data.parent
    )
    yield f"postgresql://hpo:made-up-password@127.0.0.1:{port}/postgres"
    process.terminate()
    process.wait()


@pytest.mark.cluster
def test_postgresql_itself_says_that_it_is_encrypted(
    settings: Settings, secure_server: str, certificates: Certificates
) -> None:
    """Of a server with TLS of its own: pg_stat_ssl has our connection; plain ones are refused."""
    query = f"sslmode=verify-full&sslrootcert={certificates.authority}"
    secure = replace(settings, storage=f"{secure_server}?{query}")
    engine = retry_while_unavailable(lambda: connect(secure), secure_server, patience_s=30)
    schema.upgrade(engine)
    with engine.connect() as connection:
        mine = text("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        assert connection.scalar(mine) is True
    engine.dispose()
    with pytest.raises(DatabaseError, match="without encryption") as caught:
        connect(replace(settings, storage=f"{secure_server}?sslmode=disable"))
    assert "sslmode=require" in caught.value.hint
