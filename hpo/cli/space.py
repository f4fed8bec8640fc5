"""`hpo space`: list, show and check search spaces."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.options import json_option, print_json, show
from hpo.errors import SpaceError, SpecError
from hpo.trainer import load_trainer
from search_spaces.faults import SpaceFaults
from search_spaces.names import did_you_mean
from search_spaces.parameter import NumberParameter
from search_spaces.reader import builtin_names, load_space, space_text
from search_spaces.space import condition
from workers.trainer_support import value_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from search_spaces.parameter import Parameter
    from search_spaces.space import SearchSpace

HINT = (
    "`hpo space list` names the built-in ones, `hpo space show NAME --yaml` prints one as a start."
)


@click.group()
def space() -> None:
    """List, show and check search spaces.

    A search space says which of a trainer's arguments vary in a study, and how far. A study
    names a built-in one, or a YAML file of your own:

    \b
      name: mine
      description: one line
      trainer: yolo
      parameters:
        lr0: {type: float, low: 1e-4, high: 0.05, log: true}
        box: {type: float, low: 1, high: 20, step: 0.5}
        imgsz: {type: int, low: 320, high: 640, step: 32}
        optimizer: {type: categorical, choices: [SGD, AdamW]}
        warmup_momentum: {type: float, low: 0, high: 0.95, when: {optimizer: SGD}}
        cos_lr: {type: fixed, value: true}

    `when` makes a parameter exist only where an earlier one has that value, or one of a list.
    """  # noqa: D301 - click's mark for text kept as it is, \b, is the character itself


@space.command("list")
@json_option
def list_spaces(as_json: bool) -> None:
    """List the built-in search spaces."""
    spaces = [load_space(name) for name in builtin_names()]
    document = [_summary(one) for one in spaces]

    def text() -> None:
        rows = [(one.name, one.trainer, str(len(one.searched)), one.description) for one in spaces]
        _table(("NAME", "TRAINER", "SEARCHED", "DESCRIPTION"), rows)

    show(as_json, document, text)


@space.command("show")
@click.argument("name_or_path")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print its file as it is, comments included.")
@json_option
def show_space(name_or_path: str, as_yaml: bool, as_json: bool) -> None:
    """Show one search space: a built-in name, or a file.

    To start a space of your own: hpo space show yolov8n --yaml > mine.yaml
    """
    if as_yaml and as_json:
        raise click.UsageError("--yaml and --json exclude each other")
    with _as_space_error():
        found = load_space(name_or_path)
        if as_yaml:
            click.echo(space_text(name_or_path), nl=False)
            return

    def text() -> None:
        click.echo(f"{found.name} (trainer {found.trainer}): {found.description}\n")
        rows = [
            (one.name, one.kind, _values(one), _scale(one), condition(one))
            for one in found.parameters
        ]
        _table(("PARAMETER", "TYPE", "VALUES", "SCALE", "ONLY WHERE"), rows)

    show(as_json, found.to_dict(), text)


@space.command("check")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option
def check_spaces(files: tuple[str, ...], as_json: bool) -> None:
    """Check search-space files and report every fault of each at once.

    A file is also checked against its trainer: every parameter must be one of the trainer's
    arguments, and its range one that the trainer takes.
    """
    sound: list[dict[str, Any]] = []
    faulty: list[SpaceFaults] = []
    for file in files:
        try:
            found = load_space(file)
            _check_trainer(found, file)
            sound.append({"file": file, **_summary(found)})
        except SpaceFaults as error:
            faulty.append(error)
    if as_json and not faulty:
        print_json(sound)
    elif not as_json:
        for one in sound:
            names = one["parameters"]
            count = "1 parameter" if len(names) == 1 else f"{len(names)} parameters"
            click.echo(f"{one['file']}: ok, {count} ({', '.join(names)})")
    if len(faulty) == 1:
        raise SpaceError(faulty[0].what, faulty[0].faults, hint=HINT)
    if faulty:
        faults = [f"{error.what}: {fault}" for error in faulty for fault in error.faults]
        raise SpaceError(f"{len(faulty)} of {len(files)} search spaces", faults, hint=HINT)


@contextmanager
def _as_space_error() -> Iterator[None]:
    """Turn a SpaceFaults into a SpaceError, with what to do next."""
    try:
        yield
    except SpaceFaults as error:
        raise SpaceError(error.what, error.faults, hint=HINT) from None


def _check_trainer(found: SearchSpace, file: str) -> None:
    """Raise SpaceFaults where the space's trainer does not take its parameters."""
    try:
        arguments = load_trainer(found.trainer).describe().arguments
    except SpecError as error:
        raise SpaceFaults(file, error.faults) from None
    faults = []
    for name, values in found.bounds().items():
        key = f"parameters.{name}"
        if name not in arguments:
            near = did_you_mean(name, arguments)
            faults.append(f"{key}: the trainer '{found.trainer}' has no such argument{near}")
        else:
            wrong = (value_fault(arguments[name], value) for value in values)
            faults += [f"{key}: {fault}" for fault in wrong if fault]
    if faults:
        raise SpaceFaults(file, faults)


def _summary(one: SearchSpace) -> dict[str, Any]:
    return {
        "name": one.name,
        "trainer": one.trainer,
        "description": one.description,
        "parameters": [parameter.name for parameter in one.parameters],
    }


def _values(parameter: Parameter) -> str:
    if isinstance(parameter, NumberParameter):
        return f"{parameter.low:g} to {parameter.high:g}"
    return ", ".join(str(value) for value in parameter.bounds())


def _scale(parameter: Parameter) -> str:
    if not isinstance(parameter, NumberParameter):
        return ""
    if parameter.log:
        return "log"
    return "" if parameter.grid_step is None else f"step {parameter.grid_step:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as columns as wide as their widest cell."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
