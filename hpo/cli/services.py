"""`hpo up`, `hpo down` and `hpo env`: start, stop and address this machine's servers."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy.exc import ProgrammingError

from hpo.cli.terminal.options import json_option, show
from hpo.errors import UsageError
from hpo.services.background import any_background, drain_backgrounds
from hpo.services.processes import running_services, stop_services
from hpo.services.up import DASHBOARD_PORT, MLFLOW_PORT, ServiceOptions, ServiceStatus, bring_up
from hpo.settings import Settings
from hpo.storage.postgres import embedded
from hpo.storage.postgres.engine import is_private, storage_url
from hpo.tracking.uri import tracking_uri

if TYPE_CHECKING:
    from hpo.services.processes import Service

PORT = click.IntRange(1, 65535)
TITLES = {"mlflow": "MLflow", "dashboard": "optuna-dashboard", "postgresql": "PostgreSQL"}


@click.command(short_help="Start PostgreSQL, MLflow and optuna-dashboard here.")
@click.option("--no-mlflow", is_flag=True, help="Do not start MLflow's server.")
@click.option("--no-dashboard", is_flag=True, help="Do not start optuna-dashboard.")
@click.option("--mlflow-port", type=PORT, help=f"Default: {MLFLOW_PORT}, or the next free one.")
@click.option(
    "--dashboard-port", type=PORT, help=f"Default: {DASHBOARD_PORT}, or the next free one."
)
@json_option
def up(
    no_mlflow: bool,
    no_dashboard: bool,
    mlflow_port: int | None,
    dashboard_port: int | None,
    as_json: bool,
) -> None:
    """Start PostgreSQL, MLflow and optuna-dashboard here.

    All listen on this machine only. PostgreSQL is the private one in `.hpo`, or the one that
    HPO_STORAGE names, whose tables are made or brought to this version. What runs already is left
    alone. They run until `hpo down`.
    """
    settings = Settings.read()
    options = ServiceOptions(not no_mlflow, not no_dashboard, mlflow_port, dashboard_port)
    standing = bring_up(settings, options, lambda text: click.echo(text, err=True))
    document = {
        "postgresql": {"url": standing.database, "private": settings.storage is None},
        **{name: _document(standing, name, service) for name, service in standing.services.items()},
    }
    show(as_json, document, lambda: _print(settings, standing))


@click.command(short_help="Stop what `hpo up` and others left running here.")
@click.option("--force", is_flag=True, help="Although workers still train.")
@json_option
def down(force: bool, as_json: bool) -> None:
    """Stop what `hpo up` and others left running here.

    Ends launches left in the background once their epochs are over, MLflow's server,
    optuna-dashboard and the private PostgreSQL of this project. A server that HPO_STORAGE names is
    left alone. Nothing is deleted.
    """
    settings = Settings.read()
    if any_background(settings.home):
        click.echo("hpo: background workers leave at the end of their epoch …", err=True)
    stopped = [item.name for item in drain_backgrounds(settings.home)]
    private = is_private(settings)
    if private and not force:
        _refuse_while_training(settings)
    stopped += [service.name for service in stop_services(settings.home)]
    if private and embedded.stop(settings.home):
        stopped.append("postgresql")
    lines = [f"Stopped {TITLES.get(name, name)}." for name in stopped] or ["Nothing runs here."]
    show(as_json, {"stopped": stopped}, lambda: click.echo("\n".join(lines)))


def _refuse_while_training(settings: Settings) -> None:
    from hpo.storage.postgres.engine import connect
    from hpo.studies.status import training_now

    if embedded.status(settings.home).pid is None:
        return
    engine = connect(settings)
    try:
        busy = training_now(engine)
    except ProgrammingError:
        return  # no tables yet, so nobody trains
    finally:
        engine.dispose()
    if busy:
        raise UsageError(
            f"{len(busy)} workers still train: {', '.join(busy)}",
            hint="End them with Ctrl-C or `hpo stop`, or use --force.",
        )


@click.command(short_help="Print the variables that other tools need.")
@json_option
def env(as_json: bool) -> None:
    """Print the variables that other tools need.

    Use it as `eval "$(hpo env)"`. The output holds the database's password: keep it out of logs
    and shared terminals. Starts the private PostgreSQL where it does not run.
    """
    settings = Settings.read()
    url = storage_url(settings)
    mlflow = None if settings.tracking_uri else running_services(settings.home).get("mlflow")
    variables = {
        "HPO_STORAGE": url,
        "HPO_ARTIFACTS": settings.artifacts,
        "MLFLOW_TRACKING_URI": mlflow.address if mlflow else tracking_uri(settings, url),
        "OPTUNA_STORAGE": url,
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    show(as_json, variables, lambda: click.echo("\n".join(lines)))


def _document(standing: ServiceStatus, name: str, service: Service) -> dict[str, Any]:
    return {
        "address": service.address,
        "pid": service.pid,
        "started": name in standing.started,
    }


def _print(settings: Settings, standing: ServiceStatus) -> None:
    where = f"private, in {settings.home}" if settings.storage is None else "HPO_STORAGE"
    click.echo(f"{'PostgreSQL':<18}{standing.database} ({where})")
    for name, service in standing.services.items():
        click.echo(f"{TITLES[name]:<18}{service.address}")
    click.echo("Stop them with `hpo down`; `hpo env` prints what other tools need.")
