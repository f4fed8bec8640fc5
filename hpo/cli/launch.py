"""`hpo launch`: workers on Ray, and a live table while they run."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import click

from hpo.cli.common import json_option, print_json, print_view, study_option
from hpo.cli.failing import INTERRUPTED
from hpo.cli.launch_view import follower
from hpo.cli.signals import drain_on_signals
from hpo.cli.worker import seconds_of
from hpo.errors import HpoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.settings import Settings
    from hpo.study import Study

LOOK_S = 1.0


@click.command()
@click.option(
    "--workers", type=click.IntRange(min=1), default=2, show_default=True,
    help="How many at once.",
)  # fmt: skip
@click.option("--n-trials", type=click.IntRange(min=1), help="Each worker leaves after so many.")
@click.option("--timeout", metavar="T", help="Workers claim no more after this time.")
@click.option(
    "--cpus-per-worker", type=click.FloatRange(min=0.01), default=1.0, show_default=True,
    help="Cores that Ray reserves for each.",
)  # fmt: skip
@click.option(
    "--gpus-per-worker", type=click.FloatRange(min=0), default=None,
    help="Fractions share a GPU (default: 1 where the cluster has GPUs, else 0).",
)  # fmt: skip
@click.option(
    "--address", help="An existing Ray cluster (default: RAY_ADDRESS, else a private one)."
)
@click.option(
    "--detach", is_flag=True, help="Leave it running in the background; `hpo down` stops it."
)
@study_option
@json_option
def launch(
    workers: int,
    n_trials: int | None,
    timeout: str | None,
    cpus_per_worker: float,
    gpus_per_worker: float | None,
    address: str | None,
    detach: bool,
    study_name: str | None,
    as_json: bool,
) -> int:
    """Run workers on Ray and follow their progress.

    Workers are actors on a private local Ray, or on an existing cluster. Ctrl-C lets each epoch
    end and leaves the study resumable; a second one leaves now.
    """
    timeout_s = seconds_of("--timeout", timeout)
    settings, study = _choose(study_name)
    if detach:
        _detach(settings, study, as_json=as_json)
        return 0
    from workers.ray_launcher import Launch, Plan, cluster, gpus_of_cluster
    from workers.worker import Limits

    address = address or settings.ray_address
    plan = Plan(
        study.name, workers, Limits(n_trials, timeout_s), cpus_per_worker, gpus_per_worker or 0.0
    )
    click.echo(f"hpo: starting {workers} workers on {address or 'a private Ray'}", err=True)
    with cluster(address, plan):
        if gpus_per_worker is None and gpus_of_cluster():
            plan = Plan(study.name, workers, plan.limits, cpus_per_worker, 1.0)
        running = Launch(plan, settings)
        heard = drain_on_signals(running.drain, "workers leave at the end of their epoch")
        _follow(settings, study, running.wait, as_json=as_json)
    notes = [note for summary in running.summaries for note in summary.notes]
    _end(study, notes, running.errors, as_json=as_json)
    return INTERRUPTED if signal.SIGINT in heard else 0


def _choose(name: str | None) -> tuple[Settings, Study]:
    from hpo.cli.project import opened, require_open, the_study
    from hpo.readiness import require_same

    with opened() as (settings, engine):
        study = the_study(settings, engine, name, writing=True)
        require_open(study)
        require_same(study, settings)  # said here at once, not by every worker a minute later
        return settings, study


def _follow(
    settings: Settings, study: Study, wait: Callable[[float], bool], *, as_json: bool
) -> None:
    """Show progress until all workers have ended; what cannot be read now is read next time."""
    from hpo.database.engine import connect
    from hpo.status import status

    engine = connect(settings, pool_size=1)
    try:
        with follower(as_json=as_json) as view:
            while not wait(LOOK_S):
                try:
                    view.show(status(engine, study))
                except HpoError as error:
                    click.echo(f"hpo: {error}", err=True)
    finally:
        engine.dispose()


def _end(study: Study, notes: list[str], errors: list[HpoError], *, as_json: bool) -> None:
    from hpo.cli.project import opened
    from hpo.cli.status_view import status_view
    from hpo.status import status

    with opened() as (_, engine):
        document = status(engine, study)
    if as_json:
        said = [str(error) for error in errors]
        print_json({"status": document, "notes": notes, "errors": said})
    else:
        print_view(status_view(document))
        for note in dict.fromkeys(notes):  # every worker asks for the promotion, one makes it
            if "already" not in note:
                click.echo(note)
        if document["state"] == "finished":
            click.echo(f"Next: `hpo champion --study {study.name}`, and `hpo up` to look at it.")
        else:
            click.echo("Next: `hpo launch` goes on where it stands.")
    if errors:
        raise errors[0]


def _detach(settings: Settings, study: Study, *, as_json: bool) -> None:
    """Start the same command without --detach as a process of its own."""
    from hpo.background import start_background

    arguments = [item for item in sys.argv[1:] if item not in ("--detach", "--json")]
    command = [sys.executable, "-m", "hpo.cli", *arguments]
    log = start_background(settings.home, f"launch-{study.name}", command)
    if as_json:
        print_json({"study": study.name, "log": str(log)})
    else:
        click.echo(f"Running in the background; it writes to {log}.")
        click.echo("Next: `hpo status --watch`; `hpo down` stops it.")
