"""`hpo init` and `hpo create-study`: write a study file, and make a study of one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.options import COUNT, json_option, key_value, progress, show
from hpo.errors import UsageError

if TYPE_CHECKING:
    from hpo.settings import Settings
    from hpo.studies.spec import StudySpec
    from hpo.trainer import Description

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
    from hpo.studies.fields import set_path

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
    spec = _checked(file, overrides, settings)
    _create(spec, settings, exist_ok=exist_ok, as_json=as_json)


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


def _checked(file: Path | None, overrides: dict[str, Any], settings: Settings) -> StudySpec:
    from hpo.datasets.builtin import BUILT_IN, planned, resolve
    from hpo.datasets.held_out import held_out
    from hpo.datasets.validation import require
    from hpo.studies.study_file import read_study_file

    def resolve_data(name: str, base: Path) -> Path:
        if name in BUILT_IN:
            return planned(name, home=settings.home)  # made once everything else is sound
        path = resolve(name, home=settings.home, base=base)
        require(path)
        return path

    def require_held_out(path: Path) -> None:
        with progress("files read") as told:
            held_out(path, home=settings.home, progress=told)

    return read_study_file(file, overrides, resolve_data, require_held_out)


def _create(spec: StudySpec, settings: Settings, *, exist_ok: bool, as_json: bool) -> None:
    from hpo.cli.terminal.context import plainly
    from hpo.storage.artifacts.opening import open_store
    from hpo.storage.postgres import schema
    from hpo.storage.postgres.engine import connect
    from hpo.studies.model_file import keep
    from hpo.studies.store import create_study as store
    from hpo.studies.store import find_study
    from hpo.trainer import load_trainer

    settings.home.mkdir(parents=True, exist_ok=True)
    trainer = load_trainer(spec.trainer)
    description = trainer.describe()
    mark, test_mark = _fingerprints(spec, settings, description)
    open_store(settings).require_writable()
    engine = connect(settings, create=True)
    try:
        with plainly(engine):
            schema.upgrade(engine)
        model_sha256, before = None, find_study(engine, spec.study)
        if before is None or exist_ok:  # else it is refused below
            model_sha256 = keep(
                trainer, spec.model, open_store(settings), partial(_prepared, spec, settings),
                expected=None if before is None else before.model_sha256,
            )  # fmt: skip
        study, made = store(
            engine, spec, fingerprint=mark, code_version=description.code_version,
            test_fingerprint=test_mark, model_sha256=model_sha256, exist_ok=exist_ok,
        )  # fmt: skip
    finally:
        engine.dispose()
    document = {
        "study": study.name, "created": made, "trials": study.trials,
        "epochs": spec.budget.epochs, "spec_sha256": study.spec_sha256,
        "dataset_fingerprint": study.fingerprint, "test_fingerprint": study.test_fingerprint,
        "model_sha256": study.model_sha256,
        "simulated": description.simulated,
    }  # fmt: skip

    def text() -> None:
        said = "Created" if made else "Exists, and is equal:"
        click.echo(f"{said} study '{study.name}': {study.trials} trials of {_epochs(spec)}")
        searched = ", ".join(spec.space.distributions())
        click.echo(f"  searches {searched} with {spec.sampler.name}, pruner {spec.pruner.name}")
        if description.simulated:
            click.echo("  SIMULATED: no model is trained, the figures mean nothing")
        click.echo("Next: `hpo launch --workers 2`, or `hpo worker` for one worker here.")

    show(as_json, document, text)


def _prepared(spec: StudySpec, settings: Settings) -> Path:
    """The file that trainings start from, seen to be of use; some seconds."""
    from workers.training_process.client import TrainingProcess

    click.echo(f"hpo: loading {spec.model} once, to see that trainings can start from it", err=True)
    with TrainingProcess(spec.trainer, settings.home / "logs") as process:
        return process.prepare(spec.model)


def _fingerprints(
    spec: StudySpec, settings: Settings, description: Description
) -> tuple[str | None, str | None]:
    """Of the dataset, which is made where it is a built-in one, and of its test split."""
    from hpo.datasets.builtin import resolve
    from hpo.datasets.fingerprint import fingerprint
    from hpo.datasets.held_out import held_out, simulated_fingerprint

    home, wanted = settings.home, spec.promotion.wanted
    if spec.data is None:
        return None, simulated_fingerprint(description.code_version) if wanted else None
    data = resolve(spec.data, home=home, base=home.parent)
    with progress("files read") as told:
        mark = fingerprint(data, home=home, progress=told)
        test = held_out(data, home=home, progress=told).fingerprint if wanted else None
    return mark, test


def _epochs(spec: StudySpec) -> str:
    return f"{spec.budget.epochs} epochs" if spec.budget.epochs else "a searched number of epochs"
