"""`hpo init` and `hpo create-study`: write a study file, and make a study of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.options import COUNT, json_option, key_value, show, tell_progress
from hpo.errors import UsageError

if TYPE_CHECKING:
    from hpo.studies.create import CreatedStudy
    from hpo.studies.spec import StudySpec

SUFFIX = ".yaml"
DEFAULT_FILE = Path(f"hpo{SUFFIX}")
BUILT_IN_MIN_EPOCHS = 2  # pruner.min_epochs of the built-in study


@click.command()
@click.argument("name", required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=DEFAULT_FILE, show_default=True,
    help="The file to write.",
)  # fmt: skip
def init(name: str | None, output: Path) -> None:
    """Write a commented study file to start from.

    NAME is the study's name. `hpo create-study` finds the file as hpo.yaml.
    """
    from hpo.settings import Settings
    from hpo.studies.study_file import TEMPLATE

    settings = Settings.read()
    if output.exists():
        raise UsageError(
            f"{output} exists", hint=f"Edit it, or write another one: `hpo init -o OTHER{SUFFIX}`"
        )
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", hint=f"`mkdir -p {output.parent}`")
    text = TEMPLATE.read_text(encoding="utf-8")
    if name is not None:
        text = _renamed(text, name)
    temporary = output.with_name(f".{output.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(output)  # a Ctrl-C leaves no half file
    settings.home.mkdir(parents=True, exist_ok=True)
    click.echo(f"Wrote {output}. Edit it, then: hpo create-study {_argument(output)}".rstrip())


def _renamed(text: str, name: str) -> str:
    """The template with `name` for the study and its model.

    Raises:
        UsageError: a name that neither could have.
    """
    from hpo.studies.names import name_fault

    if fault := name_fault(name, "/:"):
        raise UsageError(f"NAME {fault}")
    quoted = name if _is_plain(name) else json.dumps(name)  # JSON's quoting is YAML's too
    return text.replace("shapes-quick", quoted)


def _is_plain(name: str) -> bool:
    """Whether a study file reads it as this very text, comment behind it and all."""
    from search_spaces.yaml_text import parse_yaml

    document, faults = parse_yaml(f"study: {name}  # comment")
    return not faults and bool(document == {"study": name})


def _argument(output: Path) -> str:
    return "" if output == DEFAULT_FILE else str(output)


@click.command("create-study")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="Name of the study, instead of the file's.")
@click.option("--trials", type=COUNT, metavar="N", help="budget.trials")
@click.option("--epochs", type=COUNT, metavar="N", help="budget.epochs")
@click.option("--data", help="A built-in dataset or the path of a data YAML.")
@click.option(
    "--set", "settings_given", multiple=True, metavar="KEY=VALUE",
    help="Any other key of the study file, e.g. --set train.imgsz=160 (repeatable).",
)  # fmt: skip
@click.option("--exist-ok", is_flag=True, help="Go on with an equal study that exists.")
@json_option
def create_study(
    *,
    file: Path | None,
    name: str | None,
    trials: int | None,
    epochs: int | None,
    data: str | None,
    settings_given: tuple[str, ...],
    exist_ok: bool,
    as_json: bool,
) -> None:
    """Check a study file as a whole and create the study.

    FILE is hpo.yaml of this folder when there is one, else the built-in quick study on drawn
    shapes. Nothing is written before everything was checked.
    """
    from hpo.settings import Settings
    from hpo.studies.create import create_study as create
    from hpo.studies.fields import set_path
    from workers.training_process.client import prepare_model

    settings = Settings.read()
    if file is None and DEFAULT_FILE.is_file():
        file = DEFAULT_FILE
    overrides = _overrides(settings_given)
    given = {"study": name, "budget.trials": trials, "budget.epochs": epochs}
    for path, value in given.items():
        if value is not None:
            set_path(overrides, path, value)
    promotion = overrides.get("promotion", {})
    named = not isinstance(promotion, dict) or "model" in promotion
    if name is not None and file is None and not named:
        # The built-in study's model is not the place for another study's champion.
        set_path(overrides, "promotion.model", name)
    if epochs is not None and file is None and "pruner" not in overrides:
        # The built-in study prunes from its second epoch on, where it has one.
        set_path(overrides, "pruner.min_epochs", max(1, min(BUILT_IN_MIN_EPOCHS, epochs)))
    if data is not None:
        # On the command line a path means: from here, not from the study file's folder.
        set_path(overrides, "data", _from_here(data))
    result = create(
        settings,
        file,
        overrides,
        exist_ok=exist_ok,
        prepare=prepare_model,
        on_progress=tell_progress(),
    )
    show(as_json, result.to_json(), lambda: _print_created(result))


def _overrides(given: tuple[str, ...]) -> dict[str, Any]:
    from hpo.studies.fields import set_path

    values: dict[str, Any] = {}
    for item in given:
        key, value = key_value(item, "--set ", "--set train.imgsz=160")
        set_path(values, key, value)
    return values


def _from_here(data: str) -> str:
    from hpo.datasets.builtin import BUILT_IN

    path = Path(data).expanduser()
    is_path = path.suffix in (".yaml", ".yml") or "/" in data or path.exists()
    return str(path.absolute()) if is_path and data not in BUILT_IN else data


def _print_created(result: CreatedStudy) -> None:
    from hpo.cli.terminal.views import SIMULATED

    study, spec = result.study, result.study.spec
    said = "Created" if result.created else "Exists, and is equal:"
    click.echo(f"{said} study '{study.name}': {study.trials} trials of {_epochs(spec)}")
    searched = ", ".join(spec.space.distributions())
    click.echo(f"  searches {searched} with {spec.sampler.name}, pruner {spec.pruner.name}")
    if result.simulated:
        click.echo(f"  {SIMULATED}")
    click.echo("Next: `hpo launch --workers 2`, or `hpo worker` for one worker here.")


def _epochs(spec: StudySpec) -> str:
    return f"{spec.budget.epochs} epochs" if spec.budget.epochs else "a searched number of epochs"
