"""What `hpo up` starts beside PostgreSQL, as command lines; starts nothing.

A command line can be read by every user of the machine, so what holds a password goes into the
environment, which only the process's own user can read.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpo.host.processes import HOST
from hpo.tracking.uri import artifact_root, tracking_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.settings import Settings

# Job workers are five processes more, for features that this project does not use.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


@dataclass(frozen=True)
class Program:
    """One service's process.

    Attributes:
        name: `mlflow` or `dashboard`.
        title: what people call it.
        words: its command line.
        port: where it listens on 127.0.0.1.
        health: path that answers 200 once it serves.
        environment: variables on top of this process's own, except those that start with MLFLOW_.
    """

    name: str
    title: str
    words: tuple[str, ...]
    port: int
    health: str
    environment: Mapping[str, str] = field(repr=False)

    def full_environment(self) -> dict[str, str]:
        """The variables that the process gets."""
        # A user's own MLFLOW_* are meant for clients; some of them would redirect the server.
        # With the safe path on, a file named mlflow.py in the current folder is not run instead.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")
        }
        return {**inherited, "PYTHONSAFEPATH": "1", **self.environment}


def mlflow_program(settings: Settings, storage_url: str, port: int) -> Program:
    """MLflow's tracking server on the database and the files that its clients use directly."""
    root = artifact_root(settings)
    return Program(
        name="mlflow",
        title="MLflow",
        words=(
            *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
            *("--workers", "1", "--no-serve-artifacts", "--default-artifact-root", root),
            *("--uvicorn-opts", "--log-level warning"),
        ),
        port=port,
        health="/health",
        environment={
            **MLFLOW_ENVIRONMENT,
            # Its own list has patterns such as 10.*, which a site named 10.example.org fits too
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{HOST}:{port},localhost:{port}",
            "MLFLOW_BACKEND_STORE_URI": tracking_uri(settings, storage_url),
        },
    )


def dashboard_program(settings: Settings, port: int) -> Program:
    """optuna-dashboard on the study's database."""
    folder = dashboard_folder(settings)
    # One user's own, on loopback, so it may write; the dashboard of a given server keeps to that
    # server's reader, where the environment names one.
    environment = {"HPO_HOME": str(settings.home), "HPO_DASHBOARD_BIND": HOST}
    if settings.storage is not None:
        environment["HPO_STORAGE"] = settings.storage
    else:
        environment |= {"HPO_DASHBOARD_STORAGE": "", "HPO_READER_STORAGE": ""}
    where = () if folder is None else (folder,)
    return Program(
        name="dashboard",
        title="optuna-dashboard",
        words=(sys.executable, "-m", "hpo.dashboard_app", str(port), *where),
        port=port,
        health="/api/meta",
        environment=environment,
    )


def dashboard_folder(settings: Settings) -> str | None:
    """Where optuna-dashboard's own artifacts are; None when HPO_ARTIFACTS is not a folder."""
    return None if "://" in settings.artifacts else f"{settings.artifacts}/dashboard"
