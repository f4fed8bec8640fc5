"""Between a client and PostgreSQL: TLS, PgBouncer, roles as `hpo provision` makes them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from hpo.services.credentials import read_logins
from hpo.services.provisioning import Provisioned, provision
from hpo.settings import Settings
from hpo.storage.postgres.url import with_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


class Server:
    """The tests' server as an administrator gets it, with names that no other test uses.

    Attributes:
        env: the variables of `hpo provision`.
        said: what it told of its waiting.
    """

    def __init__(self, url: str, folder: Path) -> None:
        mark = secrets.token_hex(4)
        self.admin = with_database(url, "postgres")
        self.role = {name: f"{name}_{mark}" for name in ("hpo", "mlflow", "reader", "admin")}
        self.folder = folder
        self.said: list[str] = []
        self.env = {
            "HPO_ADMIN_STORAGE": self.admin,
            "HPO_STORAGE": self.url("hpo", self.role["hpo"]),
            "MLFLOW_BACKEND_STORE_URI": self.url("mlflow", self.role["mlflow"]),
            "HPO_READER_STORAGE": self.url("reader", self.role["hpo"]),
            "HPO_HOME": str(folder / ".hpo"),
        }

    def url(self, who: str, database: str, password: str | None = None) -> str:
        """A URL with the role's name and a password, a new one where none is given."""
        parts = make_url(self.admin).set(
            username=self.role[who],
            password=secrets.token_hex(12) if password is None else password,
            database=database,
        )
        return parts.render_as_string(hide_password=False)

    def provision(self, wait_s: float = 30) -> Provisioned:
        """Make it so."""
        settings = Settings.read(self.env, self.folder)
        return provision(settings, read_logins(self.env), wait_s=wait_s, say=self.said.append)

    def engine(self, variable: str) -> Engine:
        """An engine as one of the roles; its connections do not outlive their use."""
        return create_engine(self.env[variable], poolclass=NullPool)

    def as_admin(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the tests' own superuser."""
        engine = create_engine(
            with_database(self.admin, database), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def make_managed_admin(self) -> None:
        """Let the administrator be one as managed servers give: no superuser."""
        url = self.url("admin", "postgres")
        password = make_url(url).password
        role = self.role["admin"]
        self.as_admin(f"CREATE ROLE {role} LOGIN CREATEROLE CREATEDB PASSWORD '{password}'")
        self.env["HPO_ADMIN_STORAGE"] = url

    def drop(self) -> None:
        """Leave nothing of it."""
        for name in ("hpo", "mlflow"):
            self.as_admin(f"DROP DATABASE IF EXISTS {self.role[name]} WITH (FORCE)")
        for name in self.role.values():
            self.as_admin(f"DROP ROLE IF EXISTS {name}")


@pytest.fixture
def server(postgres_url: str, tmp_path: Path) -> Iterator[Server]:
    """A server on which nothing of the service has been made yet."""
    one = Server(postgres_url, tmp_path)
    yield one
    one.drop()


@pytest.fixture(scope="session")
def _provisioned(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(postgres_url, tmp_path_factory.mktemp("provisioned"))
    try:
        one.provision()
        yield one
    finally:
        one.drop()


@pytest.fixture
def provisioned(_provisioned: Server) -> Server:
    """One whose roles, databases and tables are there; its tests share them."""
    return _provisioned


SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
GSS_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x30"


@dataclass(frozen=True)
class Certificates:
    """Files of an authority and of a server that it vouches for.

    Attributes:
        authority: the authority's certificate.
        server: the server's, for 127.0.0.1 alone.
        key: the server's private key.
        stranger: certificate of an authority that vouches for nobody here.
    """

    authority: Path
    server: Path
    key: Path
    stranger: Path

    def context(self) -> ssl.SSLContext:
        """What a server needs to show them."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server, self.key)
        return context


class Front:
    """Passes connections on to a port of this machine, with TLS where it has a context.

    Attributes:
        port: where it listens on 127.0.0.1, once opened; nobody else can take it before.
        encrypted: connections that it has taken with TLS.
        plain: those without.
    """

    def __init__(self, behind: int, context: ssl.SSLContext | None = None) -> None:
        self._behind, self._context = behind, context
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.encrypted = self.plain = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._opened = threading.Event()

    def open(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._opened.wait()

    def close(self) -> None:
        """End it with all its connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        self._opened.set()
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(
            asyncio.sleep(0)
        )  # what was aborted is closed in the next turn
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        front: asyncio.StreamWriter | None = None
        try:
            head = await reader.readexactly(8)
            while head == GSS_REQUEST:
                writer.write(b"N")
                head = await reader.readexactly(8)
            if head == SSL_REQUEST and self._context is not None:
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(self._context)
                self.encrypted += 1
                head = b""
            else:
                self.plain += 1
            back, front = await asyncio.open_connection("127.0.0.1", self._behind)
            front.write(head)
            pumps = {
                asyncio.ensure_future(_pump(*way)) for way in ((reader, front), (back, writer))
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # a client that does not like our certificate
        finally:
            for one in (writer, front):
                if one is not None:
                    one.transport.abort()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()


def _authority(name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    return _certificate(name, key, name, key, x509.BasicConstraints(ca=True, path_length=None)), key


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(extension, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made for this run of the tests."""
    folder = tmp_path_factory.mktemp("certificates")
    found = Certificates(
        *(folder / name for name in ("ca.crt", "server.crt", "server.key", "x.crt"))
    )
    authority, authority_key = _authority("authority of the tests")
    key = ec.generate_private_key(ec.SECP256R1())
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = _certificate("postgres", key, "authority of the tests", authority_key, here)
    stranger, _ = _authority("another authority")
    for path, certificate in (
        (found.authority, authority),
        (found.server, server),
        (found.stranger, stranger),
    ):
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    found.key.chmod(0o600)
    return found


# Debian has it where an ordinary user's PATH does not lead
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_S = 20.0
# What docs/scaling.md says to set, and no more
CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
"""


class Bouncer:
    """A running PgBouncer.

    Attributes:
        size: connections to PostgreSQL at most, for one database and user.
    """

    def __init__(self, url: str, port: int, size: int) -> None:
        self._url, self._port, self.size = make_url(url), port, size

    def url(self, database: str) -> str:
        """URL of a database, through it."""
        return self._at(database).render_as_string(hide_password=False)

    def _at(self, database: str) -> URL:
        return self._url.set(host="127.0.0.1", port=self._port, database=database)

    def pools(self) -> list[dict[str, Any]]:
        """What it says of its pools (SHOW POOLS)."""
        url = self._at("pgbouncer")
        connection = psycopg2.connect(
            host=url.host, port=url.port, user=url.username, password=url.password,
            dbname=url.database,
        )  # fmt: skip
        try:
            connection.autocommit = True  # its console knows no BEGIN
            with connection.cursor() as cursor:
                cursor.execute("show pools")
                names = [column.name for column in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            connection.close()


@contextmanager
def bouncer_before(url: str, size: int) -> Iterator[Bouncer]:
    """A PgBouncer in front of the server of `url`."""
    if PROGRAM is None:
        pytest.skip("there is no pgbouncer here (Debian: apt-get install pgbouncer)")
    server = make_url(url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not below pytest's folders, which are closed to the user that it may have to run as
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    users = folder / "users.txt"
    users.write_text(f'"{server.username}" "{server.password}"\n')
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(host=server.host, port=server.port, own=port, users=users, size=size)
        + f"admin_users = {server.username}\n"
    )
    command = [PROGRAM, str(configuration)]
    if os.geteuid() == 0:  # it refuses to be root
        command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        for path in (folder, users, configuration):
            shutil.chown(path, "nobody")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        bouncer = Bouncer(url, port, size)
        until = time.monotonic() + START_S
        while True:
            with suppress(psycopg2.OperationalError):
                bouncer.pools()
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.1)
        yield bouncer
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)
