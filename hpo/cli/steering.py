"""`hpo enqueue`, `retry`, `extend`, `stop`, `resume` and `delete`: steer a study."""

from __future__ import annotations

from typing import Any

import click

from hpo.cli.terminal.context import opened, the_study
from hpo.cli.terminal.options import COUNT, json_option, key_value, show, study_option
from hpo.errors import HpoError, UsageError


@click.command()
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE…")
@study_option
@json_option
def enqueue(values: tuple[str, ...], study_name: str | None, as_json: bool) -> None:
    """Put a trial with given parameters in the queue, within the budget.

    Parameters left out take the trainer's defaults.
    """
    from hpo.studies.store import enqueue as put
    from hpo.studies.trials import trainer_defaults

    params: dict[str, Any] = {}
    for item in values:
        key, value = key_value(item, "", "lr0=0.005")
        if key in params:
            raise UsageError(f"{key} is given twice")
        params[key] = value
    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=True)
        number = put(engine, study, params, trainer_defaults(study))
    show(as_json, {"number": number}, lambda: click.echo(f"Trial {number} waits for a worker."))


@click.command()
@click.argument("number", type=int)
@study_option
@json_option
def retry(number: int, study_name: str | None, as_json: bool) -> None:
    """Queue the parameters of trial NUMBER again, as a new trial within the budget.

    Of finals (--study NAME/finals) a failed trial is queued again, whatever the budget.
    """
    from hpo.studies.trials import retry_trial

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=True)
        made = retry_trial(engine, study, number)
    show(
        as_json,
        {"number": made, "of": number},
        lambda: click.echo(f"Trial {made} waits for a worker, with the parameters of {number}."),
    )


@click.command()
@click.option("--trials", type=COUNT, metavar="N", required=True, help="The new total.")
@study_option
@json_option
def extend(trials: int, study_name: str | None, as_json: bool) -> None:
    """Raise a study's budget to a new total of trials; a finished one opens again."""
    from hpo.studies.store import extend as put

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=True)
        put(engine, study, trials)
    show(
        as_json,
        {"study": study.name, "trials": trials},
        lambda: click.echo(f"{study.name}: {trials} trials. Next: `hpo launch`."),
    )


@click.command()
@study_option
@json_option
def stop(study_name: str | None, as_json: bool) -> None:
    """Stop a study: its workers leave at their next epoch; `hpo resume` goes on."""
    _set_state(study_name, "stopped", "stopped; `hpo resume` goes on", as_json=as_json)


@click.command()
@study_option
@json_option
def resume(study_name: str | None, as_json: bool) -> None:
    """Let workers go on with a stopped study."""
    _set_state(study_name, "open", "open; next: `hpo launch` or `hpo worker`", as_json=as_json)


def _set_state(name: str | None, state: str, said: str, *, as_json: bool) -> None:
    from hpo.studies.store import set_state

    with opened() as (settings, engine):
        study = the_study(settings, engine, name, writing=True)
        set_state(engine, study, state)
    document = {"study": study.name, "state": state}
    show(as_json, document, lambda: click.echo(f"{study.name}: {said}"))


@click.command()
@study_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def delete(study_name: str | None, yes: bool, as_json: bool) -> None:
    """Delete a study, its trials and its finals; registered models and MLflow's runs stay.

    Finals deleted alone (--study NAME/finals) are made again by the next `hpo finalize`.
    """
    from hpo.claims.checkpoints import delete_with_checkpoints
    from hpo.storage.artifacts.opening import open_store

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=True)
        question = f"Delete the study '{study.name}' and all its trials?"
        if not yes and not click.confirm(question, err=True):
            raise HpoError("nothing was deleted")
        stays = delete_with_checkpoints(engine, open_store(settings), study)
    if stays is not None:
        click.echo(f"hpo: checkpoints of running trials stay in the store: {stays}", err=True)
    show(as_json, {"deleted": study.name}, lambda: click.echo(f"Deleted {study.name}."))
