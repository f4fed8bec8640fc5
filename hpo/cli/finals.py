"""Finals run by a command of a person, with whoever else is at them; no command of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpo.cli.signals import drain_on_signals
from hpo.errors import HpoError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study
    from workers.events import Event

LEFT = "the finals are not over; the same command goes on with them"


def run_finals(settings: Settings, engine: Engine, study: Study, numbers: list[int] | None) -> None:
    """Look again at the best trials, or at those of `numbers`, until that is done.

    Raises:
        UsageError: a trial of `numbers` is not complete.
        MismatchError: the test split is not here, or not as it was.
        KeyboardInterrupt: it was asked to leave before.
    """
    from hpo.promotion.candidates import call_finals
    from workers.worker import Worker

    finals = call_finals(engine, study, numbers)
    if finals is None or _are_over(engine, finals):
        return
    engine.dispose()  # idle by now: the worker has its own two connections
    one = Worker(settings, finals.name, watch=_say, promote=False)
    drain_on_signals(one.drain, "leaving as soon as it can")
    summary = one.run()
    if summary.why == "drained":
        click.echo(f"hpo: {LEFT}", err=True)
        raise KeyboardInterrupt
    if summary.why != "finished":
        raise HpoError(f"the finals of '{study.name}' are not over: {summary.why}")


def _are_over(engine: Engine, finals: Study) -> bool:
    from hpo.promotion.candidates import standing

    with engine.connect() as connection:
        stands = standing(connection, finals)
    return stands is not None and not stands.open_because


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
