"""`hpo launch`: workers on Ray, and a live table while they run."""

from __future__ import annotations

import math
import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from hpo.cli.terminal.errors import INTERRUPTED
from hpo.cli.terminal.live import follower
from hpo.cli.terminal.options import (
    checkpoint_option,
    grace_option,
    json_option,
    print_json,
    print_view,
    stall_option,
    study_option,
    with_checkpoints,
)
from hpo.cli.terminal.signals import drain_on_signals
from hpo.cli.worker import seconds_of
from hpo.errors import HpoError

if TYPE_CHECKING:
    from hpo.settings import Settings
    from hpo.studies.store import Study
    from workers.ray_launcher.launch import Launch

LOOK_S = 1.0
NOBODY_S = 30.0  # without any worker, before that is said


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
@stall_option
@grace_option
@checkpoint_option
@click.option(
    "--detach", is_flag=True, help="Leave it running in the background; `hpo down` stops it."
)
@study_option
@json_option
def launch(
    *,
    workers: int,
    n_trials: int | None,
    timeout: str | None,
    cpus_per_worker: float,
    gpus_per_worker: float | None,
    address: str | None,
    stall_timeout: str,
    grace: str,
    checkpoint_every: int | None,
    detach: bool,
    study_name: str | None,
    as_json: bool,
) -> int:
    """Run workers on Ray and follow their progress.

    Workers are actors on a private local Ray, or on an existing cluster. Ctrl-C and SIGTERM let
    each epoch end, within --grace, and leave the study resumable; a second signal leaves now. A
    worker whose node Ray drains or loses goes on elsewhere, from its trial's checkpoint.
    """
    timeout_s = seconds_of("--timeout", timeout)
    grace_s = seconds_of("--grace", grace, zero=True) or 0.0
    stall_timeout_s = seconds_of("--stall-timeout", stall_timeout)
    settings, study = _choose(study_name)
    settings = with_checkpoints(settings, checkpoint_every)
    address = address or settings.ray_address
    if detach:
        _detach(settings, study, address, as_json=as_json)
        return 0
    from workers.ray_launcher.actor import Plan
    from workers.ray_launcher.cluster import cluster
    from workers.ray_launcher.launch import Launch
    from workers.ray_launcher.node_pool import NodePool, refuse_far_nodes, with_store_probe
    from workers.ray_launcher.node_settings import NodeSettings
    from workers.ray_launcher.nodes import nodes
    from workers.study_loop import Limits

    click.echo(f"hpo: starting {workers} workers on {address or 'a private Ray'}", err=True)
    told = NodeSettings.of(settings, study, private=address is None)
    with (
        cluster(address, workers * cpus_per_worker),
        with_store_probe(told, settings) as node_settings,
    ):
        refuse_far_nodes(settings)
        if gpus_per_worker is None:
            gpus_per_worker = 1.0 if any(node.gpus for node in nodes()) else 0.0
        plan = Plan(
            study=study.name,
            workers=workers,
            limits=Limits(n_trials, timeout_s),
            cpus=cpus_per_worker,
            gpus=gpus_per_worker,
            grace_s=grace_s,
            stall_timeout_s=stall_timeout_s,
        )
        pool = NodePool(plan=plan, node_settings=node_settings)
        pool.look()
        with Launch(plan, node_settings, pool) as running:
            heard = drain_on_signals(running.drain, "workers leave at the end of their epoch")
            running.news += pool.news
            _follow(settings, study, running, as_json=as_json)
    notes = [note for summary in running.summaries for note in summary.notes]
    _end(study, notes, running.errors, as_json=as_json)
    return INTERRUPTED if signal.SIGINT in heard else 0


def _choose(name: str | None) -> tuple[Settings, Study]:
    from hpo.cli.terminal.context import opened, require_open, the_study
    from hpo.studies.preflight import require_matching_environment

    with opened() as (settings, engine):
        study = the_study(settings, engine, name, writing=True)
        require_open(study)
        # Said here at once, not by every worker a minute later; the data may be on their machines
        require_matching_environment(study, settings, engine, fetch=False)
        return settings, study


def _follow(settings: Settings, study: Study, running: Launch, *, as_json: bool) -> None:
    """Show progress until all workers have ended; what cannot be read now is read next time."""
    from hpo.storage.postgres.engine import connect
    from hpo.studies.status import status

    engine = connect(settings, pool_size=1)
    seen_at = time.monotonic()
    try:
        with follower(as_json=as_json) as view:
            while not running.wait(LOOK_S):
                while running.news:
                    view.say(running.news.pop(0))
                try:
                    document = status(engine, study)
                except HpoError as error:
                    view.say(str(error))
                    continue
                view.show(document)
                if document["workers"]:
                    seen_at = time.monotonic()
                elif time.monotonic() - seen_at > NOBODY_S:
                    view.say("no worker runs yet: has Ray room for one? See `ray status`")
                    seen_at = math.inf
    finally:
        engine.dispose()


def _end(study: Study, notes: list[str], errors: list[HpoError], *, as_json: bool) -> None:
    from hpo.cli.terminal.context import opened
    from hpo.cli.terminal.views import status_view
    from hpo.studies.status import status

    with opened() as (settings, engine):
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
            # Where MLflow has a server of its own, somebody else shows the pages
            look = "" if settings.tracking_uri else ", and `hpo up` to look at it"
            click.echo(f"Next: `hpo champion --study {study.name}`{look}.")
        else:
            click.echo("Next: `hpo launch` goes on where it stands.")
    if errors:
        raise errors[0]


def _detach(settings: Settings, study: Study, address: str | None, *, as_json: bool) -> None:
    """Start the same command without --detach as a process of its own."""
    from hpo.services.background import start_background

    if address:
        from workers.ray_launcher.cluster import enter

        enter(address)  # a cluster that is not there is said here, not in a log alone
    arguments = [item for item in sys.argv[1:] if item not in ("--detach", "--json")]
    command = [sys.executable, "-m", "hpo.cli", *arguments]
    log = start_background(settings.home, f"launch-{study.name}", command)
    if as_json:
        print_json({"study": study.name, "log": str(log)})
    else:
        click.echo(f"Running in the background; it writes to {log}.")
        click.echo("Next: `hpo status --watch`; `hpo down` stops it.")
