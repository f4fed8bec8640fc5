"""`hpo rollback`: a person moves the champion's alias back, and says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpo.cli.champion import SIMULATED, model_options, the_model
from hpo.cli.common import json_option, show
from hpo.cli.project import opened

if TYPE_CHECKING:
    from hpo.promotion.decision import Decision


class Target(click.ParamType[Any]):
    """A version's number, or `none`."""

    name = "version"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """See click."""
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
    goes one champion further back. Where another hand moved the alias in MLflow, --to says whether
    to accept that or to put it back.
    """
    from hpo.promotion.ledger import actor
    from hpo.promotion.rollback import Request, roll_back

    with opened() as (settings, engine):
        name, called = the_model(settings, engine, study_name, model, alias, writing=True)
        decision = roll_back(
            engine, settings, Request(name, called, to, why, actor()),
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
