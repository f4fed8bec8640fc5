"""`hpo mirror`: bring MLflow to equal PostgreSQL, and prove that it does."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from hpo.cli.terminal.context import opened, the_study
from hpo.cli.terminal.options import json_option, show, study_option
from hpo.errors import HpoError
from hpo.studies.store import finals_id, optuna_id
from hpo.tracking.dashboard import show_pending
from hpo.tracking.mirror import Synced, open_mirror
from hpo.tracking.verify import Mismatch, mend, verify

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings

SLOW_S = 2.0  # between two lines of progress
SHOWN = 50  # differences printed for a person; `--json` has all


@click.group()
def mirror() -> None:
    """Bring MLflow to equal PostgreSQL, and prove that it does.

    Every trial is mirrored into MLflow while workers run. These commands catch up after MLflow
    was away, and compare, finals included. They know plain Optuna studies of the same database
    too.
    """


@mirror.command()
@click.option("--quick", is_flag=True, help="Copy what is missing, without comparing the rest.")
@study_option
@json_option
def sync(quick: bool, study_name: str | None, as_json: bool) -> None:
    """Bring MLflow to what PostgreSQL has, also where runs were deleted or altered there."""
    settings, ids, name = _meant(study_name, writing=True)
    result, mended, left = Synced(), 0, list[Mismatch]()
    for study_id in ids:
        with closing(open_mirror(settings, study_id)) as copier:
            copied = copier.sync_study(on_trial=_Progress("copied"))
            show_pending(copier, settings)
            result = result.plus(copied)
            if not quick and not copied.behind:
                engine, client = copier.database.engine, copier.client()
                found = verify(engine, client, study_id, on_trial=_Progress("compared")).differences
                mended += mend(client, found)
                left += [one for one in found if one.mend is None]

    def text() -> None:
        count = "1 trial" if result.copied == 1 else f"{result.copied} trials"
        rebuilt = f", {result.rebuilt} of them gone from MLflow before" if result.rebuilt else ""
        altered = f", {mended} altered tags and figures mended" if mended else ""
        click.echo(f"{name}: {count} copied{rebuilt}{altered}, {result.behind} behind")

    show(as_json, {"study": name, **asdict(result), "mended": mended}, text)
    if left:
        raise HpoError(
            f"{name}: MLflow cannot change in place:" + "".join(f"\n  - {one}" for one in left),
            hint="Delete these runs in MLflow, then sync again: they are made anew.",
        )
    if result.errors:
        lines = "".join(f"\n  - {error}" for error in result.errors)
        raise HpoError(f"{name}: not everything could be copied{lines}")


@mirror.command("verify")
@study_option
@json_option
def verify_runs(study_name: str | None, as_json: bool) -> int:
    """Compare every run in MLflow with PostgreSQL; exit 1 with the differences."""
    settings, ids, name = _meant(study_name, writing=False)
    compared, found = 0, list[Mismatch]()
    for study_id in ids:
        with closing(open_mirror(settings, study_id)) as copier:
            client = copier.client()
            result = verify(
                copier.database.engine, client, study_id, on_trial=_Progress("compared")
            )
        compared += result.runs
        found += result.differences

    def text() -> None:
        if not found:
            click.echo(f"{name}: {compared} runs equal")
            return
        for difference in found[:SHOWN]:
            click.echo(str(difference))
        if len(found) > SHOWN:
            click.echo(f"… and {len(found) - SHOWN} more (`--json` lists all)")
        count = "1 difference" if len(found) == 1 else f"{len(found)} differences"
        click.echo(f"{name}: {count} in {compared} runs")
        click.echo(f"`hpo mirror sync --study {name}` mends it.", err=True)

    document = {
        "study": name,
        "equal": not found,
        "runs": compared,
        "differences": [_plain(difference) for difference in found],
    }
    show(as_json, document, text)
    return 1 if found else 0


def _plain(difference: Mismatch) -> dict[str, str]:
    return {key: getattr(difference, key) for key in ("where", "what", "expected", "found")}


def _meant(name: str | None, *, writing: bool) -> tuple[Settings, list[int], str]:
    """(settings, Optuna's ids, name) of the study meant, which may be Optuna's alone.

    The ids are its own and that of its finals.
    """
    with opened() as (settings, engine):
        wanted = name or settings.study
        if wanted is not None:
            with engine.connect() as connection:
                study_id = optuna_id(connection, wanted)
            if study_id is not None:
                return settings, _with_finals(engine, study_id), wanted
        study = the_study(settings, engine, name, writing=writing)
        return settings, _with_finals(engine, study.study_id), study.name


def _with_finals(engine: Engine, study_id: int) -> list[int]:
    with engine.connect() as connection:
        finals = finals_id(connection, study_id)
    return [study_id] if finals is None else [study_id, finals]


class _Progress:
    """Says on stderr how far long work is."""

    def __init__(self, verb: str) -> None:
        self._verb, self._said = verb, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._said > SLOW_S:
            self._said = time.monotonic()
            click.echo(f"hpo: {done} of {total} trials {self._verb}", err=True)
