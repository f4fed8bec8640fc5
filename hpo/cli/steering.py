"""`hpo enqueue`, `retry`, `extend`, `stop`, `resume` and `delete`: steer a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.context import opened, the_study
from hpo.cli.terminal.options import COUNT, json_option, key_value, show, study_option
from hpo.errors import HpoError, StoreError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study


@click.command()
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE…")
@study_option
@json_option
def enqueue(values: tuple[str, ...], study_name: str | None, as_json: bool) -> None:
    """Put a trial with given parameters in the queue, within the budget.

    Parameters left out take the trainer's defaults.
    """
    from hpo.studies.store import enqueue as put

    params: dict[str, Any] = {}
    for item in values:
        key, value = key_value(item, "", "lr0=0.005")
        if key in params:
            raise UsageError(f"{key} is given twice")
        params[key] = value
    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=True)
        number = put(engine, study, params, defaults(study))
    show(as_json, {"number": number}, lambda: click.echo(f"Trial {number} waits for a worker."))


def defaults(study: Study) -> dict[str, Any]:
    """The trainer's defaults, under what the study fixes."""
    from hpo.trainer import load_trainer

    arguments = load_trainer(study.spec.trainer).describe().arguments
    return {name: argument.default for name, argument in arguments.items()} | study.spec.train


@click.command()
@click.argument("number", type=int)
@study_option
@json_option
def retry(number: int, study_name: str | None, as_json: bool) -> None:
    """Queue the parameters of trial NUMBER again, as a new trial within the budget.

    Of finals (--study NAME/finals) a failed trial is queued again, whatever the budget.
    """
    from hpo.studies.finals import retry_final

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=True)
        again = _retry if study.parent_id is None else retry_final
        made = again(engine, study, number)
    show(
        as_json,
        {"number": made, "of": number},
        lambda: click.echo(f"Trial {made} waits for a worker, with the parameters of {number}."),
    )


def _retry(engine: Engine, study: Study, number: int) -> int:
    """Queue an ended trial's parameters again; the new trial's number."""
    from hpo.studies.store import enqueue as put
    from hpo.studies.trials import trial_rows

    with engine.connect() as connection:
        rows = trial_rows(connection, study, number)
    if not rows:
        raise UsageError(
            f"the study '{study.name}' has no trial {number}",
            hint=f"`hpo trials --study {study.name}` lists them.",
        )
    if rows[0].state in ("running", "waiting"):
        raise UsageError(
            f"trial {number} is {rows[0].state}; only an ended one can be tried again",
            hint=f"`hpo show {number} --study {study.name}` shows where it stands.",
        )
    return put(engine, study, rows[0].params, defaults(study))


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
    from hpo.claims.checkpoints import checkpoint_areas
    from hpo.studies.finals import finals_of
    from hpo.studies.store import delete_study

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=True)
        question = f"Delete the study '{study.name}' and all its trials?"
        if not yes and not click.confirm(question, err=True):
            raise HpoError("nothing was deleted")
        areas = checkpoint_areas(engine, study)
        finals = finals_of(engine, study)
        if finals is not None:
            areas += checkpoint_areas(engine, finals)
        delete_study(engine, study)
        _remove_checkpoints(settings, areas)
    show(as_json, {"deleted": study.name}, lambda: click.echo(f"Deleted {study.name}."))


def _remove_checkpoints(settings: Settings, areas: list[str]) -> None:
    """Of trials that ran when their study was deleted."""
    from hpo.storage.artifacts.opening import open_store

    store = open_store(settings)
    try:
        for area in areas:
            store.keep_only(area, ())
    except StoreError as error:
        click.echo(f"hpo: checkpoints of running trials stay in the store: {error}", err=True)
