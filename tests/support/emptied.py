"""An MLflow whose database can be closed or lost, reached directly or through a server."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from support.mlflow_server import MlflowServer

from hpo.storage.postgres.url import with_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Emptied:
    """A database for MLflow that can be lost, reached directly or through a server."""

    def __init__(self, beside: str, template: str, folder: Path, *, served: bool) -> None:
        self._beside, self._template = beside, template
        self._database = f"mlflow_lost_{uuid.uuid4().hex[:8]}"
        self._run(f"create database {self._database} template {template}")
        url = with_database(beside, self._database)
        self.server = MlflowServer(url, folder) if served else None
        self.uri = url if self.server is None else self.server.url
        if self.server is not None:
            self.server.start()

    def _run(self, statement: str, **values: str) -> None:
        engine = create_engine(
            with_database(self._beside, "postgres"), poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
        )  # fmt: skip
        with engine.connect() as connection:
            connection.execute(text(statement), values)

    def refuse(self, *, refused: bool) -> None:
        """Let nobody in, who is in included; or let all in again."""
        self._run(f"alter database {self._database} allow_connections {not refused}")
        if refused:
            self._run(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = :name",
                name=self._database,
            )

    def lose(self) -> None:
        """All of MLflow's records are gone; it works again when this returns."""
        if self.server is None:
            self._run(f"drop database {self._database} with (force)")
            self._run(f"create database {self._database}")  # without a table
            return
        self.server.stop()
        self._run(f"drop database {self._database} with (force)")
        self._run(f"create database {self._database} template {self._template}")
        self.server.start()

    def end(self) -> None:
        """Stop the server and drop the database."""
        if self.server is not None:
            self.server.stop()
        self._run(f"drop database {self._database} with (force)")


@pytest.fixture(params=["direct", "served"])
def emptied(
    postgres_url: str, mlflow_template: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Emptied]:
    """MLflow on a database of the test's own."""
    one = Emptied(postgres_url, mlflow_template, tmp_path, served=request.param == "served")
    yield one
    one.end()
