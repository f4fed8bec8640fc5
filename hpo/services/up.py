"""What `hpo up` does: start PostgreSQL, its tables, MLflow's server and optuna-dashboard, in order.

What runs already is left as it is, so a second `hpo up` changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpo.errors import UsageError
from hpo.host.processes import HOST, is_free, next_free
from hpo.services.processes import (
    dashboard_program,
    mlflow_program,
    running_services,
    services_lock,
    start_service,
    stop_service,
)
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import connect
from hpo.storage.postgres.url import mask
from hpo.tracking.client import open_client
from hpo.tracking.uri import artifact_root, is_remote, shown, tracking_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.services.processes import Program, Service
    from hpo.settings import Settings

MLFLOW_PORT = 5000
DASHBOARD_PORT = 8080


@dataclass(frozen=True)
class ServiceOptions:
    """What to bring up beside PostgreSQL.

    Attributes:
        mlflow: whether MLflow's server.
        dashboard: whether optuna-dashboard.
        mlflow_port: MLflow's port and no other; None: 5000 or the next free one.
        dashboard_port: optuna-dashboard's; None: 8080 or the next free one.
    """

    mlflow: bool = True
    dashboard: bool = True
    mlflow_port: int | None = None
    dashboard_port: int | None = None


@dataclass(frozen=True)
class ServiceStatus:
    """What is up now.

    Attributes:
        database: the database's URL without its password.
        tracking: MLflow's URI, as its clients here use it, without a password.
        services: name -> service, those wanted.
        started: names of those that this call started.
    """

    database: str
    tracking: str
    services: dict[str, Service] = field(default_factory=dict)
    started: tuple[str, ...] = ()


def bring_up(
    settings: Settings, options: ServiceOptions, say: Callable[[str], None]
) -> ServiceStatus:
    """Bring up what is wanted and not yet up; returns where it all is.

    Args:
        settings: which PostgreSQL, which MLflow.
        options: what is to be up, and at which ports.
        say: told, in one sentence each, what takes time and what is not as asked.

    Raises:
        UsageError: a port asked for is taken.
        DatabaseError: PostgreSQL cannot be started or reached.
        ServiceError: a service does not start.
    """
    engine = connect(settings, create=True)
    url = engine.url.render_as_string(hide_password=False)
    try:
        schema.upgrade(engine)
    finally:
        engine.dispose()
    settings.home.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(settings, url)
    with services_lock(settings.home):
        before = running_services(settings.home)
        now: dict[str, Service] = {}
        if options.mlflow and is_remote(uri):
            say(f"MLflow is at {shown(uri)} (MLFLOW_TRACKING_URI), so none is started here.")
        elif options.mlflow:
            port = _port("MLflow", before.get("mlflow"), options.mlflow_port, MLFLOW_PORT, say)
            if before.get("mlflow") is None:
                # Makes MLflow's tables under a lock: its server would make them without one, at the
                # same moment as a worker's mirror.
                open_client(settings, url)
            program = mlflow_program(settings, url, port)
            serves = f"{shown(uri)} {artifact_root(settings)}"
            now["mlflow"] = _ensure(settings, program, before.get("mlflow"), serves, say)
        if options.dashboard:
            running = before.get("dashboard")
            port = _port("optuna-dashboard", running, options.dashboard_port, DASHBOARD_PORT, say)
            serves = f"{mask(url)} {settings.artifacts}"
            program = dashboard_program(settings, port)
            now["dashboard"] = _ensure(settings, program, running, serves, say)
    started = tuple(name for name, service in now.items() if service != before.get(name))
    return ServiceStatus(mask(url), shown(uri), now, started)


def _port(
    title: str,
    running: Service | None,
    asked: int | None,
    default: int,
    say: Callable[[str], None],
) -> int:
    if running is not None:
        if asked not in (None, running.port):
            raise UsageError(
                f"{title} runs already at {running.address}, not on port {asked}",
                hint="Run `hpo down` first.",
            )
        return running.port
    if asked is not None:
        if not is_free(asked):
            raise UsageError(
                f"port {asked} for {title} is taken by another program, or may not be used",
                hint="Leave the option out: the next free port is then taken.",
            )
        return asked
    port = next_free(default)
    if port is None:
        raise UsageError(f"no free port for {title} from {default} upward")
    if port != default:
        say(f"Port {default} is taken by another program: {title} gets {port}.")
    return port


def _ensure(
    settings: Settings,
    program: Program,
    running: Service | None,
    serves: str,
    say: Callable[[str], None],
) -> Service:
    if running is not None:
        if running.serves == serves:
            say(f"{program.title} runs already at {running.address}.")
            return running
        say(f"{program.title} served another database: starting it again.")
        stop_service(settings.home, running)
    say(f"Starting {program.title} on {HOST}:{program.port} …")
    return start_service(settings.home, program, serves)
