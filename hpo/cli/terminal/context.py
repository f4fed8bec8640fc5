"""The project that a command works on: settings, database, and the study meant."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from hpo.errors import StudyClosedError
from hpo.settings import Settings
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import connect
from hpo.storage.postgres.errors import explained
from hpo.studies.store import choose_study, load_study

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from hpo.studies.store import Study


@contextmanager
def opened() -> Iterator[tuple[Settings, Engine]]:
    """Settings and a database with the right tables, of an existing project."""
    settings = Settings.read()
    engine = connect(settings)
    try:
        with explained(engine):
            schema.check(engine)
            yield settings, engine
    finally:
        engine.dispose()


def the_study(settings: Settings, engine: Engine, name: str | None, *, writing: bool) -> Study:
    """The study meant; a choice that was made for the user is said on stderr.

    Raises:
        UnknownStudyError: there is none, or several are open and the command writes.
    """
    chosen, remark = choose_study(engine, name or settings.study, writing=writing)
    if remark:
        click.echo(f"hpo: {remark}", err=True)
    return load_study(engine, chosen)


def require_open(study: Study) -> None:
    """Refuse to start workers on a study that was stopped.

    Raises:
        StudyClosedError: it was.
    """
    if study.state == "stopped":
        raise StudyClosedError(
            f"the study '{study.name}' is stopped", hint=f"`hpo resume --study {study.name}` first."
        )
