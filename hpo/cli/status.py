"""`hpo list`, `status`, `trials` and `show`: where studies stand, read from PostgreSQL alone."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.context import opened, the_study
from hpo.cli.terminal.options import json_option, print_view, show, study_option
from hpo.host.serialization import finite

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.studies.store import Study

WATCH_S = 2.0


@click.command("list")
@json_option
def list_studies(as_json: bool) -> None:
    """List all studies, the newest first, and the finals of each below it."""
    from hpo.studies.store import list_studies as listed

    with opened() as (_, engine):
        studies = listed(engine)
    rows = [
        {
            "study": s.name,
            "state": s.state,
            "claimed": s.claimed,
            "trials": s.trials,
            "finals_of": s.parent,
        }
        for s in studies
    ]

    def text() -> None:
        if not rows:
            click.echo("No study yet: `hpo create-study` makes one.")
        for row in rows:
            name = f"{'  ' if row['finals_of'] else ''}{row['study']}"
            click.echo(f"{name:<30} {row['state']:<9} {row['claimed']}/{row['trials']} trials")

    show(as_json, rows, text)


@click.command()
@study_option
@click.option("--watch", is_flag=True, help="Show it again every two seconds until it is finished.")
@json_option
def status(study_name: str | None, watch: bool, as_json: bool) -> None:
    """Show where a study stands: counts, best trial, workers, mirror, champion.

    With --watch --json: one document a line. Without a terminal, --watch prints what changed.
    """
    from hpo.studies.status import status as read

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=False)
        if watch:
            _watch(engine, study, as_json=as_json)
            return
        document = read(engine, study)
    show(as_json, document, lambda: _print_status(document))


def _watch(engine: Engine, study: Study, *, as_json: bool) -> None:
    from hpo.studies.status import status as read

    if as_json:
        while True:
            document = read(engine, study)
            click.echo(json.dumps(finite(document), default=str))
            if _is_over(document):
                return
            time.sleep(WATCH_S)
    from hpo.cli.terminal.live import watch_view

    with watch_view() as shown:
        while True:
            document = read(engine, study)
            shown.show(document)
            if _is_over(document):
                return
            time.sleep(WATCH_S)


def _is_over(document: dict[str, Any]) -> bool:
    from hpo.cli.terminal.views import finals_go_on

    state = document["state"]
    return state == "stopped" or (state == "finished" and not finals_go_on(document))


def _print_status(document: dict[str, Any]) -> None:
    from hpo.cli.terminal.views import status_view

    print_view(status_view(document))


@click.command()
@study_option
@json_option
def trials(study_name: str | None, as_json: bool) -> None:
    """List a study's trials with their values and parameters."""
    from hpo.studies.status import is_simulated
    from hpo.studies.trials import trial_rows

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=False)
        with engine.connect() as connection:
            rows = trial_rows(connection, study)

    def text() -> None:
        from hpo.cli.terminal.views import trials_view

        print_view(trials_view(rows, study.spec.objective.metric, simulated=is_simulated(study)))

    keys = ("number", "state", "value", "params", "epochs", "worker", "takeovers", "run_id")
    show(as_json, [{key: getattr(row, key) for key in keys} for row in rows], text)


@click.command("show")
@click.argument("number", type=int)
@study_option
@json_option
def show_trial(number: int, study_name: str | None, as_json: bool) -> None:
    """Show one trial: parameters, every epoch, files, takeovers."""
    from hpo.studies.status import is_simulated
    from hpo.studies.trials import trial_details

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=False)
        with engine.connect() as connection:
            details = trial_details(connection, study, number)
    details |= {"simulated": is_simulated(study)}

    def text() -> None:
        from hpo.cli.terminal.views import trial_view

        print_view(trial_view(details, study.spec.objective.metric))

    show(as_json, details, text)
