"""The floors of docs/floors.yaml: who may import whom, read in the sources."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from fixtures.floors import files_page, floor_of, floors
from fixtures.sources import PACKAGES, ROOT, Module, modules, within

# What is heavy or stands for a service of its own, and who may import it
IMPORTERS: dict[str, tuple[str, ...]] = {
    "ray": ("workers.ray_launcher",),
    "torch": ("workers.yolo",),
    "torchvision": ("workers.yolo",),
    "ultralytics": ("workers.yolo",),
    "cv2": ("workers.yolo",),
    # MLflow copies this file beside the weights and imports it where the model is loaded, on
    # machines without this project: it cannot go through hpo.tracking.
    "mlflow": ("hpo.tracking", "workers.yolo.model_code.detector_model"),
    "boto3": ("hpo.artifacts",),
    "botocore": ("hpo.artifacts",),
    "optuna_dashboard": ("hpo.dashboard_app",),
    "rich": ("hpo.cli",),
    "click": ("hpo.cli",),
}
# A trainer gets a job and a `report`, and knows nothing of studies, database or MLflow
SIMULATED = ("workers.simulated", "workers.simulated_detections", "workers.simulated_evaluation")
TRAINERS = (*SIMULATED, "workers.yolo")
KNOWN_TO_TRAINERS = (
    "hpo.errors",
    "hpo.plain_pickle",
    "hpo.trainer",
    "hpo.datasets",
    "hpo.evaluation",
    "search_spaces",
    *SIMULATED[1:],
    "workers.argument_checks",
    "workers.checkpoint_files",
)

MAY_PRINT = (
    "hpo.cli",
    "workers.child",  # its stdout is the training's log file
)
MOST_LINES = 400


def own(module: Module, *, types: bool = True) -> set[str]:
    """The project's modules that it imports."""
    imported = module.all_imports if types else module.imports
    return {name for name in imported if name in modules()}


def test_every_module_has_a_place() -> None:
    """A new module stands on a floor before it is merged, and no place is kept for a lost one."""
    homeless = [name for name in modules() if floor_of(name) == len(floors())]
    assert not homeless, "put them on a floor in docs/floors.yaml"
    empty = [
        entry
        for _, entries in floors()
        for entry in entries
        if not any(within(name, entry) for name in modules())
    ]
    assert not empty, "these no longer exist"


def test_the_page_of_files_is_what_the_files_say() -> None:
    """docs/files.md cannot drift from the sources."""
    written = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert written == files_page(), "`make docs` writes it anew"


def test_each_floor_imports_only_from_those_above() -> None:
    """Imports inside functions and for types count too: knowing a lower floor's name is knowing."""
    breaches = [
        f"{module.name} imports {name}"
        for module in modules().values()
        for name in sorted(own(module))
        if floor_of(name) > floor_of(module.name)
    ]
    assert not breaches


def test_no_import_leads_back() -> None:
    """Modules form no cycle, not even through imports for types alone."""
    graph = {module.name: own(module) - {module.name} for module in modules().values()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


@pytest.mark.parametrize("library", sorted(IMPORTERS))
def test_a_library_has_its_one_importer(library: str) -> None:
    """Only the named place imports it; everything else works without it."""
    importers = {
        module.name
        for module in modules().values()
        if any(within(name, library) for name in module.all_imports)
    }
    strangers = {
        name
        for name in importers
        if not any(within(name, allowed) for allowed in IMPORTERS[library])
    }
    assert not strangers


def test_trainers_know_no_study() -> None:
    """A trainer imports the protocol, errors, datasets and its own files, nothing of studies."""
    breaches = [
        f"{module.name} imports {name}"
        for module in modules().values()
        for trainer in TRAINERS
        if within(module.name, trainer)
        for name in sorted(own(module))
        if not any(within(name, allowed) for allowed in (trainer, *KNOWN_TO_TRAINERS))
    ]
    assert not breaches


def test_the_shipped_model_code_imports_nothing_of_the_project() -> None:
    """What MLflow copies beside the weights runs where this project is not installed."""
    shipped = [name for name in modules() if within(name, "workers.yolo.model_code")]
    assert len(shipped) > 1
    assert {name: own(modules()[name]) for name in shipped} == {name: set() for name in shipped}


def test_only_the_command_line_prints() -> None:
    """Everything else says what it has to say in return values, errors and log records."""
    printing = [
        f"{module.path}:{node.lineno}"
        for module in modules().values()
        if not any(within(module.name, allowed) for allowed in MAY_PRINT)
        for node in ast.walk(ast.parse((ROOT / module.path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo")
    ]
    assert not printing


def test_no_file_is_long() -> None:
    """A file is one noun and can be read at one go; tests are files too."""
    folders = [*PACKAGES, "tests", "benchmarks"]
    lengths = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for pattern in ("*.py", "*.sql")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}
