"""`hpo champion` and `hpo rollback`: who is champion, who was, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.context import opened, the_study
from hpo.cli.terminal.options import json_option, print_view, show, study_option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from rich.table import Table
    from sqlalchemy import Engine

    from hpo.settings import Settings

    F = TypeVar("F", bound=Callable[..., Any])
    from hpo.promotion.decision import Decision

SIMULATED = " [simulated: no real training]"


def model_options(command: F) -> F:
    """`--study`, or `--model` and `--alias`: which champion is meant; read by `the_model`."""
    alias = click.option("--alias", metavar="ALIAS", help="Of the champion of --model.")
    model = click.option("--model", metavar="NAME", help="A registered model, not a study's.")
    return study_option(model(alias(command)))


def the_model(
    settings: Settings,
    engine: Engine,
    study_name: str | None,
    model: str | None,
    alias: str | None,
    *,
    writing: bool,
) -> tuple[str, str]:
    """Registered model and alias that are meant.

    Raises:
        UsageError: both a study and a model are named, or an alias without a model.
    """
    from hpo.errors import UsageError
    from hpo.promotion.champion import alias_of

    if model is None:
        if alias is not None:
            raise UsageError("--alias goes with --model", hint="A study's spec names its alias.")
        target = the_study(settings, engine, study_name, writing=writing).spec.promotion
        return target.model, target.alias
    if study_name is not None:
        raise UsageError("--study and --model name two things", hint="Give one of them.")
    with engine.connect() as connection:
        return model, alias or alias_of(connection, model)


@click.command()
@model_options
@click.option("--history", is_flag=True, help="Every decision about the model, the newest first.")
@json_option
def champion(
    study_name: str | None, model: str | None, alias: str | None, history: bool, as_json: bool
) -> None:
    """Show the champion of a registered model: version, trial, value and when it was decided.

    The record in PostgreSQL counts; where MLflow's alias differs from it, that is said, with the
    command that mends it. --history asks the record alone.
    """
    from hpo.promotion.champion import champion as read
    from hpo.promotion.ledger import entry
    from hpo.promotion.ledger import history as every

    with opened() as (settings, engine):
        name, called = the_model(settings, engine, study_name, model, alias, writing=False)
        if history:
            with engine.connect() as connection:
                rows = [entry(row) for row in reversed(every(connection, name, called))]
            show(as_json, rows, lambda: _print_history(rows, name))
            return
        document = read(engine, settings, name, called)
    show(as_json, document, lambda: _print(document, name))


def _print(document: dict[str, Any] | None, model: str) -> None:
    if document is None:
        click.echo(
            f"{model} has no champion yet. `hpo finalize` makes one of a study's best trial, "
            f"`hpo champion --model {model} --history` tells what was decided so far."
        )
        return
    if document["version"] is not None:
        click.echo(_champion(document))
    elif document["decided_at"] is not None:
        click.echo(f"{model} has no champion since {_when(document)}")
    if document["outcome"] == "rolled_back":
        click.echo(f"Rolled back by {document['actor']}: {document['why']}")
    if document["difference"]:
        click.echo(f"But: {document['difference']}.")


def _champion(document: Mapping[str, Any]) -> str:
    """The line of a champion; one registered outside this service has no trial and no figures."""
    parts = [f"{document['model']} version {document['version']}, alias {document['alias']}"]
    if document["trial"] is not None:
        parts[0] += f": trial {document['trial']} of {document['study']}"
    if document["value"] is not None:
        parts.append(_figures(document))
    note = SIMULATED if document["simulated"] else ""
    return f"{', '.join(parts)}{note}, decided {_when(document)}"


def _figures(document: Mapping[str, Any]) -> str:
    if document["value"] is None:
        return ""
    test = document["test_value"]
    held_out = "" if test is None else f", {test:.4f} on the test split"
    return f"{document['metric']} {document['value']:.4f}{held_out}"


def _when(document: Mapping[str, Any]) -> str:
    return f"{document['decided_at']:%Y-%m-%d %H:%M %Z}"


def _print_history(rows: list[dict[str, Any]], model: str) -> None:
    if not rows:
        click.echo(f"Nothing was decided about {model} yet.")
        return
    print_view(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("seq", "decided", "outcome", "champion", "trial", "figures", "why", "by"):
        table.add_column(name)
    for row in rows:
        outcome = row["outcome"] + (" (override)" if row["override"] else "")
        trial = "" if row["trial"] is None else f"{row['trial']} of {row['study']}"
        note = SIMULATED if row["simulated"] else ""
        table.add_row(
            str(row["seq"]), _when(row), outcome, _change(row), trial, _figures(row) + note,
            row["why"] or row["reason"] or "", row["actor"] or "",
        )  # fmt: skip
    return table


def _change(row: Mapping[str, Any]) -> str:
    """`1 -> 2`, or `2` where the champion stayed."""
    before, after = row["previous_version"] or "none", row["version"] or "none"
    return f"{before} -> {after}" if before != after else str(after)


class Target(click.ParamType[Any]):
    """A version's number, or `none`."""

    name = "version"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Turn the option's text into a version's number, or `none`; called by click."""
        text = str(value).strip()
        if text in ("none", "before"):
            return text
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"{value!r} is no version: a number from 1, or `none`", param, ctx)
        return int(text)


@click.command()
@model_options
@click.option(
    "--to",
    type=Target(),
    default="before",
    metavar="VERSION",
    help="A version of the model, or `none` (default: the champion before the present one).",
)
@click.option("--why", required=True, metavar="TEXT", help="Why; it is recorded.")
@json_option
def rollback(
    study_name: str | None, model: str | None, alias: str | None, to: Any, why: str, as_json: bool
) -> None:
    """Move the champion's alias back to the champion before, or to another version.

    It is recorded with its reason, and what was rolled back stays in the registry. A second call
    goes one champion further back. Where the alias was moved in MLflow outside this service, --to
    says whether to accept that or to put it back.
    """
    from hpo.promotion.ledger import actor
    from hpo.promotion.rollback import Request, roll_back
    from hpo.storage.postgres.engine import Database

    with opened() as (settings, engine):
        name, called = the_model(settings, engine, study_name, model, alias, writing=True)
        request = Request(model=name, alias=called, to=to, why=why, actor=actor())
        decision = roll_back(
            Database(engine), settings, request,
            lambda text: click.echo(f"hpo: {text}", err=True),
        )  # fmt: skip
    show(as_json, decision.to_dict(), lambda: _tell(decision))


def _tell(decision: Decision) -> None:
    model, alias = decision.model, decision.alias
    if decision.already:
        click.echo("An earlier `hpo rollback` had been interrupted: it is completed now.")
    if decision.version is None:
        click.echo(f"{model} has no champion any more: its alias {alias} is removed.")
    else:
        note = SIMULATED if decision.simulated else ""
        of = "" if decision.trial is None else f" (trial {decision.trial} of {decision.study})"
        click.echo(
            f"{model} version {decision.version}{of} is champion, alias {alias}: "
            f"{decision.reason}{note}."
        )
    if decision.previous_version not in (None, decision.version):
        click.echo(f"Before: version {decision.previous_version}.")
    click.echo(f"Recorded: {decision.actor}, {decision.why}")
