"""A database role, an object store and an MLflow behind a login, each with a marked secret."""

from __future__ import annotations

import base64
import os
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faults.http_proxy import HttpProxy
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from hpo.storage.postgres.embedded_files import find_binaries
from hpo.storage.postgres.url import with_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler

    from support.marks import Marks
    from support.s3_server import S3Server

USER = "ada"


class LoginProxy(HttpProxy):
    """An HTTP proxy that answers 401 without the right user and password."""

    def __init__(self, target: str, password: str) -> None:
        self._login = base64.b64encode(f"{USER}:{password}".encode()).decode()
        super().__init__(target)

    def pass_on(self, handler: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
        if handler.headers.get("Authorization") == f"Basic {self._login}":
            return super().pass_on(handler)
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        return 401, [("WWW-Authenticate", 'Basic realm="MLflow"')], b"who are you?\n"


@dataclass(frozen=True)
class Role:
    """A role of its own on the tests' server, which may make databases, and owns one.

    Attributes:
        name: of the role.
        database: that it owns.
        server: URL of the server, of its superuser.
    """

    name: str
    database: str
    server: str

    def url(self, password: str, port: int | None = None) -> str:
        """Its database's, over TCP; the password is quoted already."""
        port = port or make_url(self.server).port
        return f"postgresql://{self.name}:{password}@127.0.0.1:{port}/{self.database}"

    def databases(self) -> list[str]:
        """All that it owns by now."""
        found = on_server(
            self.server,
            f"SELECT datname FROM pg_database WHERE datdba = '{self.name}'::regrole ORDER BY 1",  # noqa: S608 - our own name
        )
        return [str(name) for (name,) in found]

    def dump(self, *others: str) -> bytes:
        """Everything in its databases and in others, as SQL, by PostgreSQL's own program."""
        program = find_binaries().folder / "pg_dump"
        url = make_url(self.server)
        env = os.environ | {"PGPASSWORD": url.password or ""}
        where = ["-h", "127.0.0.1", "-p", str(url.port), "-U", str(url.username)]
        return b"".join(
            subprocess.run(
                [str(program), *where, "-d", name], env=env, capture_output=True, check=True
            ).stdout
            for name in (*self.databases(), *others)
        )


def new_role(server: str, password: str) -> Iterator[Role]:
    """A role with this password; it and what it owns are gone afterwards."""
    name = f"marked_{uuid.uuid4().hex[:8]}"
    role = Role(name, f"{name}_studies", server)
    on_server(server, f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{password}'")
    on_server(server, f"CREATE DATABASE {role.database} OWNER {name}")
    yield role
    for database in role.databases():
        on_server(server, f"DROP DATABASE {database} WITH (FORCE)")
    on_server(server, f"DROP ROLE {name}")


def on_server(url: str, statement: str) -> list[Any]:
    """Run a statement on the server, outside any transaction; its rows."""
    engine = create_engine(
        with_database(url, "postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        result = connection.execute(text(statement.replace(":", r"\:")))
        return list(result) if result.returns_rows else []


def objects_with_marks(server: S3Server, marks: Marks) -> dict[str, set[str]]:
    """Key of each object in the bucket that holds a mark, in its content, name or metadata."""
    client = server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=server.bucket)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    assert keys, "nothing was stored"
    found = {}
    for key in keys:
        answer = client.get_object(Bucket=server.bucket, Key=key)
        data = answer["Body"].read()
        held = marks.found_in(data) | marks.found_in(f"{key} {answer['Metadata']}".encode())
        if held:
            found[key] = held
    return found
