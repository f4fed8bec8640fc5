"""`hpo export` and `hpo import`: a whole study as one file, and back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.options import json_option, show, study_option
from hpo.errors import UsageError

if TYPE_CHECKING:
    from hpo.settings import Settings
    from hpo.studies.backup.document import StudyDocument
    from hpo.studies.backup.restore import Imported

STREAM = Path("-")
KB, MB = 1e3, 1e6


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@study_option
@json_option
def export_study(file: Path, *, force: bool, study_name: str | None, as_json: bool) -> None:
    """Write a whole study as one file: spec, trials, epochs, finals, promotions.

    It may be exported while workers run it: the file shows one moment, and trials that ran then
    are taken over where it is imported. FILE is compressed when its name ends in .gz, and - is
    stdout. Weights, pictures and checkpoints are not in it: they stay in the artifact store
    (HPO_ARTIFACTS), which is to be copied or shared by itself.
    """
    from hpo.cli.terminal.context import opened, the_study
    from hpo.storage.artifacts.opening import open_store
    from hpo.studies.backup.export import export_study as read
    from hpo.studies.backup.file import require_writable, to_bytes, write

    if file == STREAM and as_json:
        raise UsageError("--json and the file - both want stdout", hint="Name a file.")
    if file != STREAM:
        require_writable(file, force=force)
    with opened() as (settings, engine):
        place = open_store(settings).place
        study = the_study(settings, engine, study_name, writing=False)
        document = read(engine, study, artifacts=place)
    if file == STREAM:
        data = to_bytes(document)
        sys.stdout.buffer.write(data)
        size = len(data)
    else:
        size = write(document, file, force=force)
    summary = document.summary()
    result = {"file": str(file), "bytes": size, "sha256": document.sha256(), **summary}
    result["artifacts"] |= {"place": place}

    def text() -> None:
        to_stderr = file == STREAM
        said = "stdout" if to_stderr else str(file)
        click.echo(f"Wrote {said}, {_size(size)}: {_contents(summary)}", err=to_stderr)
        for line in _left_out(summary, place):
            click.echo(f"  {line}", err=to_stderr)

    show(as_json, result, text)


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NEW", help="Name of the study here, instead of its own.")
@json_option
def import_study(file: Path, *, name: str | None, as_json: bool) -> None:
    """Restore a study from a file of `hpo export`.

    Everything is checked before anything is written, and a study of the same name is never
    touched. Trials that ran when it was exported are taken over by the next worker. MLflow's runs
    are made anew, by the next worker or `hpo mirror sync`. Under a NEW name the study is one of
    its own, about which nothing was decided: promotions stay out. FILE - is stdin.
    """
    from hpo.settings import Settings
    from hpo.studies.backup.file import from_bytes, read
    from hpo.studies.names import name_fault

    if name is not None and (fault := name_fault(name, "/:")):
        raise UsageError(f"--name {fault}")
    document = from_bytes(sys.stdin.buffer.read(), "stdin") if file == STREAM else read(file)
    origin, decided = document.name, document.content["promotions"]
    if name is not None:
        document = document.renamed(name)
    settings = Settings.read()
    made, place, state = _restore(document, settings)
    summary = document.summary()
    checkpoints = {"found": made.checkpoints, "lost": made.lost}
    result = {"of": origin, "state": state, **summary, "checkpoints": checkpoints}
    result["artifacts"] |= {"place": place, "came_from": str(document.made.get("artifacts"))}

    def text() -> None:
        click.echo(f"Imported {_contents(summary)}; it is {state}")
        for line in _still_needed(made, result):
            click.echo(f"  {line}")
        if decided and document.name != origin:
            click.echo(f"  {_count(len(decided), 'decision')} about '{origin}' left out")
        click.echo(f"Next: `hpo status --study {document.name}`, or `hpo worker` to go on.")

    show(as_json, result, text)


def _restore(document: StudyDocument, settings: Settings) -> tuple[Imported, str, str]:
    """(what became of it, the artifact store's place here, the study's state)."""
    from hpo.storage.artifacts.opening import open_store
    from hpo.storage.postgres import schema
    from hpo.storage.postgres.engine import connect
    from hpo.storage.postgres.errors import explained
    from hpo.studies.backup.restore import import_study as restore
    from hpo.studies.backup.restore import require_free
    from hpo.studies.store import list_studies

    settings.home.mkdir(parents=True, exist_ok=True)
    store = open_store(settings)
    store.require_writable()
    engine = connect(settings, create=True)
    try:
        with explained(engine):
            schema.upgrade(engine)
            require_free(engine, document.name)
            made = restore(engine, document, store)
            states = {study.study_id: study.state for study in list_studies(engine)}
    finally:
        engine.dispose()
    return made, store.place, states[made.study_id]


def _contents(summary: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in summary["trials"].items())
    finals = ", ".join(f"{count} {state}" for state, count in (summary["finals"] or {}).items())
    if finals:
        finals = f", finals: {finals}"
    promotions = summary["promotions"]
    decided = f", {_count(promotions, 'decision')}" if promotions else ""
    return (
        f"study '{summary['study']}', {counts or 'no'} of {_count(summary['budget'], 'trial')}, "
        f"{_count(summary['epochs'], 'epoch')}{finals}{decided}"
    )


def _left_out(summary: dict[str, Any], place: str) -> list[str]:
    lines = []
    for name, what in (("artifacts", "weights and pictures"), ("checkpoints", "checkpoints")):
        files, size = summary[name]["files"], summary[name]["bytes"]
        if files:
            lines.append(f"not in it: {_count(files, 'file')} of {what}, {_size(size)}, in {place}")
    if model := summary["starts_from"]:
        lines.append(f"not in it: {model}, which its trainings start from, in {place}")
    return lines


def _still_needed(made: Imported, result: dict[str, Any]) -> list[str]:
    files, lines = result["artifacts"], []
    if files["files"]:
        origin = files["came_from"]
        lines.append(
            f"its {_count(files['files'], 'file')} of weights and pictures, "
            f"{_size(files['bytes'])}, are looked for in {files['place']}"
            + (f"; they were in {origin}" if origin != files["place"] else "")
        )
    if model := result["starts_from"]:
        lines.append(f"{model}, which its trainings start from, is looked for in {files['place']}")
    running = sum(
        (states or {}).get("running", 0) for states in (result["trials"], result["finals"])
    )
    if running:
        found = f"{_count(made.checkpoints, 'checkpoint')} of them found here, {made.lost} not"
        said = found if result["checkpoints"]["found"] + made.lost else "from the start"
        lines.append(f"{_count(running, 'trial')} that ran will be taken over: {said}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _size(size: int) -> str:
    if size < KB:
        return _count(size, "byte")
    return f"{size / KB:.1f} kB" if size < MB else f"{size / MB:.1f} MB"
