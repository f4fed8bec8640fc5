"""`hpo finalize` and `hpo champion`: promote a study's best trial, and see who is champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpo.cli.common import json_option, show, study_option
from hpo.cli.project import opened, the_study

if TYPE_CHECKING:
    from hpo.promotion.decision import Decision
    from hpo.settings import Settings
    from hpo.study import Study


@click.command()
@study_option
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@json_option
def finalize(study_name: str | None, dry_run: bool, as_json: bool) -> None:
    """Promote a study's best trial to champion of its registered model, once.

    Workers do this themselves when a study finishes. By hand it also works on an open study, by
    what is complete so far, and leaves it open. Calling it again changes nothing, but for a
    version that MLflow lost with its database: that is made again.
    """
    from hpo.promotion.finalizer import finalize as decide
    from workers.device import choose_device
    from workers.process import TrainingProcess

    def say(text: str) -> None:
        click.echo(f"hpo: {text}", err=True)

    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=True)
        with TrainingProcess(study.spec.trainer, settings.home / "logs") as process:
            decision = decide(
                engine, settings, study, process, open_ok=True, dry_run=dry_run, progress=say,
                device=choose_device(),
            )  # fmt: skip
        show(as_json, decision.to_dict(), lambda: _tell(decision, study, settings))


def _tell(decision: Decision, study: Study, settings: Settings) -> None:
    from hpo.promotion.decision import Outcome

    click.echo(f"{decision.sentence()[0].upper()}{decision.sentence()[1:]}.")
    if decision.dry_run:
        click.echo("Nothing was written. Without --dry-run it is done.")
    elif decision.outcome is Outcome.PROMOTED:
        where = " with the MLFLOW_TRACKING_URI of `hpo env`" if not settings.tracking_uri else ""
        click.echo(f'Load it{where}: mlflow.pyfunc.load_model("models:/{decision.model}'
                   f'@{decision.alias}")')  # fmt: skip
        click.echo("Why, and how to undo it: decision.md in its MLflow run.")
    elif decision.outcome is Outcome.NONE:
        click.echo(f"Next: `hpo status --study {study.name}`.")


@click.command()
@study_option
@click.option("--model", metavar="NAME", help="A registered model, instead of a study's.")
@json_option
def champion(study_name: str | None, model: str | None, as_json: bool) -> None:
    """Show the champion of a registered model: version, trial, value and when it was decided.

    The record in PostgreSQL counts; where MLflow's alias differs from it, that is said.
    """
    from hpo.promotion.present import champion as read
    from hpo.spec import Promotion

    with opened() as (settings, engine):
        if model is None:
            target = the_study(settings, engine, study_name, writing=False).spec.promotion
        else:
            target = Promotion(model, "champion")
        document = read(engine, settings, target.model, target.alias)
    show(as_json, document, lambda: _print(document, target.model))


def _print(document: dict[str, Any] | None, model: str) -> None:
    if document is None:
        click.echo(
            f"{model} has no champion yet. `hpo finalize` makes one of a study's best trial."
        )
        return
    if document["version"] is not None:
        note = " [simulated: no real training]" if document["simulated"] else ""
        click.echo(
            f"{model} version {document['version']}, alias {document['alias']}: trial "
            f"{document['trial']} of {document['study']}, {document['metric']} "
            f"{document['value']:.4f}{note}, decided {document['decided_at']:%Y-%m-%d %H:%M %Z}"
        )
    if document["difference"]:
        click.echo(f"But: {document['difference']}.")
