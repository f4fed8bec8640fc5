"""Start, find and stop MLflow's server and optuna-dashboard on this machine.

A service is a process, a port and a health page. Those that run stand in `home/services.json`, each
with its pid and start time, so that a pid which is another process's by now is neither taken for a
service nor ended.

A command line can be read by every user of the machine, so what holds a password goes into the
environment, which only the process's own user can read.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from hpo.errors import ServiceError
from hpo.host import processes
from hpo.host.file_lock import file_lock
from hpo.host.processes import HOST
from hpo.tracking.uri import artifact_root, tracking_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hpo.settings import Settings

LOCK_WAIT_S = 180.0
START_WAIT_S = 120.0
POLL_S = 0.2
LOG_LINES = 3  # of a service that did not start, in its error


@dataclass(frozen=True, kw_only=True)
class Service:
    """One running service.

    Attributes:
        name: `mlflow` or `dashboard`.
        pid: of its first process, which leads a session of its own.
        started: that process's start time, as `processes.start_time` gives it.
        port: where it listens on 127.0.0.1.
        serves: what it serves, without passwords; another value means another database.
    """

    name: str
    pid: int
    started: float
    port: int
    serves: str

    @property
    def address(self) -> str:
        """The service's address for a browser on this machine."""
        return f"http://{HOST}:{self.port}"


@contextmanager
def services_lock(home: Path) -> Iterator[None]:
    """Hold the lock under which one process starts or stops services of `home`, which exists."""
    with file_lock(home / "services.lock", wait_s=LOCK_WAIT_S):
        yield


def running_services(home: Path) -> dict[str, Service]:
    """Name -> service, of those that still run."""
    return {
        service.name: service
        for service in _recorded(home)
        if processes.is_same(service.pid, service.started)
    }


def start_service(home: Path, program: Program, serves: str) -> Service:
    """Start a service and wait until it answers; its log is `home/logs/NAME.log`.

    Its caller holds `services_lock` and has seen that it does not run.

    Raises:
        ServiceError: it ends, or does not answer for START_WAIT_S seconds.
    """
    log = home / "logs" / f"{program.name}.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            program.words,
            cwd=home,
            env=program.full_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(
        name=program.name,
        pid=process.pid,
        started=processes.start_time(process.pid) or 0.0,
        port=program.port,
        serves=serves,
    )
    others = [other for other in _recorded(home) if other.name != program.name]
    _record(home, [*others, service])
    try:
        _wait_until_healthy(process, program, log)
    except BaseException:  # a Ctrl-C too must not leave half a service
        stop_service(home, service)
        process.wait()
        raise
    processes.release(process)
    return service


def stop_service(home: Path, service: Service) -> None:
    """Stop a service with all its processes; nothing when it is gone."""
    processes.end_session(service.pid, service.started)
    _record(home, [other for other in _recorded(home) if other.pid != service.pid])


def stop_services(home: Path) -> list[Service]:
    """Stop every service of `home`; returns those that ran.

    Also ends what a service that died left behind.
    """
    if not (home / "services.json").exists():
        return []
    with services_lock(home):
        recorded = _recorded(home)
        stopped = [
            service for service in recorded if processes.end_session(service.pid, service.started)
        ]
        _record(home, [])
    return stopped


def _wait_until_healthy(process: subprocess.Popen[bytes], program: Program, log: Path) -> None:
    deadline = time.monotonic() + START_WAIT_S
    while not _answers(program.port, program.health):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            what = "ended while starting" if ended else f"does not answer after {START_WAIT_S:g} s"
            raise ServiceError(f"{program.title} {what}{_last_words(log)}", hint=f"Its log: {log}")
        time.sleep(POLL_S)


def _last_words(log: Path) -> str:
    """The last lines of a log that a person would read: no indented ones, as of a traceback."""
    lines = log.read_text(errors="replace").splitlines()
    plain = [line for line in lines if line[:1].strip() and not line.startswith("Traceback")]
    return "".join(f"\n  {line}" for line in plain[-LOG_LINES:])


def _answers(port: int, path: str) -> bool:
    # http.client goes straight there: urllib would ask the environment's proxy for loopback.
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _recorded(home: Path) -> list[Service]:
    try:
        rows = json.loads((home / "services.json").read_text(encoding="utf-8"))
        return [Service(**row) for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        return []  # another version's file, or one cut short: nothing that we know how to stop


def _record(home: Path, services: list[Service]) -> None:
    path = home / "services.json"
    new = path.with_name("services.json.new")
    new.write_text(json.dumps([asdict(service) for service in services], indent=2))
    new.replace(path)


# Job workers are five processes more, for features that this project does not use.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


@dataclass(frozen=True, kw_only=True)
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
        words=(sys.executable, "-m", "hpo.services.dashboard", str(port), *where),
        port=port,
        health="/api/meta",
        environment=environment,
    )


def dashboard_folder(settings: Settings) -> str | None:
    """Where optuna-dashboard's own artifacts are; None when HPO_ARTIFACTS is not a folder."""
    return None if "://" in settings.artifacts else f"{settings.artifacts}/dashboard"
