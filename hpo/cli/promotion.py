"""`hpo finalize` and `hpo promote`, with the finals that they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.terminal.context import opened, the_study
from hpo.cli.terminal.options import json_option, show, study_option
from hpo.cli.terminal.signals import drain_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from hpo.promotion.decision import Decision
    from hpo.promotion.request import Override
    from hpo.settings import Settings
    from hpo.studies.store import Study
    from workers.events import Event

onnx_option = click.option(
    "--no-onnx", is_flag=True, help="Leave out the ONNX file that the study's promotion asks for."
)
out_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where decision.html, decision.md, metadata.json and metrics.json are written "
    "(default: promotions/STUDY in HPO_HOME).",
)


@click.command()
@study_option
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@onnx_option
@out_option
@json_option
def finalize(
    study_name: str | None, dry_run: bool, no_onnx: bool, out: Path | None, as_json: bool
) -> None:
    """Look again at a study's best trials and promote one if it beats the champion, once.

    Workers do this themselves when a study finishes. By hand it also works on an open study, by
    what is complete so far, and leaves it open. Calling it again changes nothing, but for a
    version that MLflow lost with its database: that is made again.
    """
    with opened() as (settings, engine):
        study = _parent(engine, the_study(settings, engine, study_name, writing=True))
        if not dry_run:
            _run_finals(settings, engine, study, None)
        decision = _decided(settings, engine, study, dry_run=dry_run, onnx=not no_onnx)
        folder = _files(settings, study, decision, out)
        show(
            as_json, decision.to_dict(), lambda: _tell(decision, study, (settings, engine), folder)
        )


@click.command()
@click.argument("number", type=click.IntRange(min=0))
@click.option("--why", required=True, metavar="TEXT", help="The reason, kept on record.")
@study_option
@onnx_option
@out_option
@json_option
def promote(
    *,
    number: int,
    why: str,
    study_name: str | None,
    no_onnx: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Promote trial NUMBER past the gate; it is recorded as an override, with the reason.

    The trial is evaluated on the test split first where that can be done, so that the record says
    what the gate thinks of it. `hpo rollback` undoes it.
    """
    from hpo.errors import MismatchError, UsageError
    from hpo.promotion.champion import require_alias
    from hpo.promotion.ledger import actor
    from hpo.promotion.request import Override

    if not why.strip():
        raise UsageError("--why is empty", hint="Say why this trial is promoted past the gate.")
    with opened() as (settings, engine):
        study = _parent(engine, the_study(settings, engine, study_name, writing=True))
        require_alias(engine, settings, study.spec.promotion)
        try:
            _run_finals(settings, engine, study, [number])
        except MismatchError as error:
            click.echo(f"hpo: without figures on the test split: {error}", err=True)
        override = Override(number, why.strip(), actor())
        decision = _decided(settings, engine, study, override=override, onnx=not no_onnx)
        folder = _files(settings, study, decision, out)
        show(
            as_json, decision.to_dict(), lambda: _tell(decision, study, (settings, engine), folder)
        )


def _parent(engine: Engine, study: Study) -> Study:
    """The study itself, or the one whose finals were named."""
    from hpo.studies.finals import parent_of

    return study if study.parent_id is None else parent_of(engine, study)


def _decided(
    settings: Settings,
    engine: Engine,
    study: Study,
    *,
    dry_run: bool = False,
    override: Override | None = None,
    onnx: bool,
) -> Decision:
    from hpo.promotion.finalizer import finalize as decide
    from hpo.storage.postgres.engine import Database
    from workers.device import choose_device
    from workers.training_process.client import TrainingProcess

    with TrainingProcess(study.spec.trainer, settings.home / "logs") as process:
        return decide(
            Database(engine), settings, study, process, open_ok=True, dry_run=dry_run,
            override=override, onnx=onnx, device=choose_device(),
            progress=lambda text: click.echo(f"hpo: {text}", err=True),
        )  # fmt: skip


def _files(settings: Settings, study: Study, decision: Decision, out: Path | None) -> Path | None:
    """Where the decision's files were written; None where it has none."""
    from hpo.promotion.report.files import fetch_files

    if decision.dry_run or decision.evidence.run_id is None:
        return None
    folder = out or settings.home / "promotions" / study.name
    fetch_files(settings, decision, folder)
    return folder


def _tell(
    decision: Decision, study: Study, project: tuple[Settings, Engine], folder: Path | None
) -> None:
    from hpo.promotion.decision import Outcome

    settings, engine = project

    click.echo(f"{decision.sentence()[0].upper()}{decision.sentence()[1:]}.")
    for line in _rules(decision):
        click.echo(line)
    since = "" if not decision.already else _since(decision, engine, settings)
    if since:
        click.echo(since)
    if decision.dry_run:
        click.echo("Nothing was written. Without --dry-run it is done.")
    elif decision.outcome is Outcome.PROMOTED and not since:
        where = " with the MLFLOW_TRACKING_URI of `hpo env`" if not settings.tracking_uri else ""
        click.echo(f'Load it{where}: mlflow.pyfunc.load_model("models:/{decision.model}'
                   f'@{decision.alias}")')  # fmt: skip
        click.echo(f"Undo it: hpo rollback --model {decision.model} --why TEXT")
    elif decision.outcome is Outcome.NONE:
        click.echo(f"Next: `hpo status --study {study.name}`.")
    if folder is not None:
        click.echo(f"Why: {folder / 'decision.html'}, and in its MLflow run.")


def _since(decision: Decision, engine: Engine, settings: Settings) -> str:
    """Who is champion by now, where that is not what was decided; "" where it is."""
    from hpo.promotion.champion import champion

    now = champion(engine, settings, decision.model, decision.alias)
    if now is None or now["version"] is None:
        return f"Since then {decision.model} has lost it: there is no champion now."
    if now["version"] != decision.version:
        return f"Since then version {now['version']} has become champion: `hpo champion --history`."
    return f"But: {now['difference']}." if now["difference"] else ""


def _rules(decision: Decision) -> list[str]:
    """One line a finalist and a rule."""
    lines = []
    for finalist in decision.evidence.finalists:
        test, interval = finalist.test_value(str(decision.evidence.metric)), finalist.interval
        held_out = "" if test is None else f", test {test:.4f}"
        around = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
        value = "-" if finalist.value is None else f"{finalist.value:.4f}"
        out = f"  out: {finalist.out}" if finalist.out else ""
        lines.append(f"  finalist trial {finalist.trial}: {value}{held_out}{around}{out}")
    for rule in decision.evidence.rules:
        met = "met    " if rule.met else "NOT met"
        lines.append(f"  {met} {rule.rule}: wanted {rule.wanted}, seen {rule.seen}")
    return lines


LEFT = "the finals are not over; the same command goes on with them"


def _run_finals(
    settings: Settings, engine: Engine, study: Study, numbers: list[int] | None
) -> None:
    """Run what finals are left, and say how they go.

    Raises:
        KeyboardInterrupt: a signal ended them.
    """
    from workers.finals import run_finals

    def on_start(drain: Callable[[], None]) -> None:
        drain_on_signals(drain, "leaving as soon as it can")

    if not run_finals(settings, engine, study, numbers, watch=_say, on_start=on_start):
        click.echo(f"hpo: {LEFT}", err=True)
        raise KeyboardInterrupt


def _say(event: Event) -> None:
    from workers.events import Kind

    if event.kind is Kind.CLAIMED:
        click.echo(f"hpo: final {event.trial}", err=True)
    elif event.kind is Kind.EPOCH:
        value = "" if event.value is None else f", {event.value:.4f}"
        click.echo(f"hpo: final {event.trial}: epoch {event.epoch}/{event.epochs}{value}", err=True)
    elif event.kind is Kind.ENDED:
        click.echo(f"hpo: final {event.trial}: {event.text.lower()}", err=True)
    elif event.text:
        click.echo(f"hpo: {event.text}", err=True)
