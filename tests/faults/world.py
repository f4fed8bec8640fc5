"""All that a run needs, of its own: PostgreSQL, MLflow, the store and the command line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Self

from faults.http_proxy import HttpProxy
from faults.store_disk import StoreDisk
from faults.tcp_proxy import TcpProxy
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool
from support.command_line import HPO, PREFIXES
from support.mlflow_server import MlflowServer

from hpo.storage.postgres import embedded, schema
from hpo.storage.postgres.admin import ensure_database
from hpo.storage.postgres.url import with_database

PLANTED = Path(__file__).with_name("planted")
COMMAND_S = 300.0  # after which a command of ours hangs
STORE_MB = 64


class World:
    """Everything between the workers and the disk; a context manager.

    Attributes:
        folder: where all of it lies.
        home: HPO_HOME of the commands; PostgreSQL is not in it, so none sees it as its own.
        lease_s: HPO_LEASE_S of the commands.
        engine: straight to PostgreSQL, past the proxy.
        database: the proxy before PostgreSQL.
        url: PostgreSQL's address, past the proxy; `mlflow_url` is that of MLflow's database there.
        mlflow: MLflow's server, where there is one; `tracking` is the proxy before it.
        disk: where the artifact store lies.
    """

    def __init__(
        self, folder: Path, *, lease_s: float = 2.0, store_mb: int = STORE_MB, server: bool = True
    ) -> None:
        """Start nothing yet.

        Args:
            folder: an empty one.
            lease_s: of the commands.
            store_mb: size of the artifact store's disk.
            server: whether MLflow is reached through a server; else by its database.
        """
        self.folder, self.home, self.lease_s = folder, folder / ".hpo", lease_s
        self._store_mb, self._with_server = store_mb, server
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as held:
            self._start(held)
            self._held = held.pop_all()
        return self

    def _start(self, held: contextlib.ExitStack) -> None:
        self.home.mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        self._server_home = self.folder / "database"
        held.callback(embedded.stop, self._server_home)
        url = embedded.ensure_running(self._server_home, create=True)
        self.url = url
        self.engine = create_engine(url, poolclass=NullPool)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Processes are killed here, not machines: nothing is lost by not waiting for the disk
            connection.exec_driver_sql("alter system set fsync = off")
            connection.exec_driver_sql("select pg_reload_conf()")
        schema.upgrade(self.engine)
        self.disk = held.enter_context(StoreDisk(self.folder, megabytes=self._store_mb))
        self.database = held.enter_context(TcpProxy(lambda: embedded.port(self._server_home)))
        self.tracking_uri = self.mlflow_url = with_database(url, "mlflow")
        ensure_database(self.mlflow_url, beside=url)
        if self._with_server:
            self.mlflow = MlflowServer(self.mlflow_url, self.folder)
            held.callback(self.mlflow.stop)
            self.mlflow.start()
            self.tracking = held.enter_context(HttpProxy(self.mlflow.url))
            self.tracking_uri = self.tracking.url

    def __exit__(self, *raised: object) -> None:
        self._held.close()

    def stop_postgres(self) -> None:
        """Stop it in order, ending all connections."""
        embedded.stop(self._server_home)

    def kill_postgres(self) -> None:
        """SIGKILL its main process."""
        pid = embedded.status(self._server_home).pid
        if pid is not None:
            os.kill(pid, 9)

    def start_postgres(self) -> None:
        """Start it again, on the same port; waits for the orphans of a killed one."""
        embedded.ensure_running(self._server_home)

    def env(self, **more: str) -> dict[str, str]:
        """Environment of the commands."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
        storage = make_url(self.url).set(port=self.database.port, drivername="postgresql")
        return inherited | {
            "HPO_STORAGE": storage.render_as_string(hide_password=False),
            "HPO_HOME": str(self.home),
            "HPO_ARTIFACTS": str(self.disk.store),
            "HPO_LEASE_S": str(self.lease_s),
            "HPO_DB_PATIENCE_S": "300",
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "PYTHONPATH": str(PLANTED),
            "TMPDIR": str(self.folder / "tmp"),  # what killed processes leave there goes with it
            **more,
        }

    def start(self, *words: str, **more: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start `hpo WORDS` in a session of its own; (the process, the file of its output)."""
        log = self.folder / f"{words[0]}-{uuid.uuid4().hex[:8]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.disk.prefix, HPO, *words], cwd=self.folder, env=self.env(**more),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return process, log

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        """Run `hpo WORDS` to its end: (exit code, what it said)."""
        process, log = self.start(*words, **more)
        try:
            code = process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return code, log.read_text(errors="replace")

    def python(self, code: str) -> str:
        """Run Python where the commands run, with their disk; what it printed."""
        done = subprocess.run(
            [*self.disk.prefix, sys.executable, "-c", code], env=self.env(), cwd=self.folder,
            capture_output=True, text=True, timeout=COMMAND_S, check=True,
        )  # fmt: skip
        return done.stdout
