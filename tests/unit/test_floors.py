"""The floors of docs/architecture.md: who may import whom, read in the sources."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from fixtures.sources import PACKAGES, ROOT, Module, modules, within

# Each floor imports only from itself and from those above it. A name stands for a module or a
# whole package, the longest one that fits decides.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("search_spaces",),
    ("hpo", "hpo.errors"),
    ("hpo.settings", "hpo.file_lock", "hpo.ports", "hpo.processes"),
    ("hpo.datasets",),
    ("hpo.trainer", "hpo.spec", "hpo.spec_fields", "hpo.spec_checks", "hpo.spec_reader",
     "hpo.spec_names", "hpo.policy", "hpo.ranked"),
    ("hpo.database",),
    ("hpo.study", "hpo.snapshot", "hpo.history", "hpo.search", "hpo.trial_rows", "hpo.status"),
    ("hpo.artifacts",),
    ("hpo.claims", "hpo.lease"),
    ("hpo.readiness",),
    ("hpo.tracking", "hpo.tracking_uri", "hpo.projection_dashboard"),
    ("hpo.promotion",),
    ("hpo.services", "hpo.service_programs", "hpo.background", "hpo.bring_up", "hpo.dashboard_app"),
    ("workers", "workers.device", "workers.events", "workers.messages", "workers.argument_checks"),
    ("workers.simulated", "workers.yolo"),
    ("workers.child", "workers.child_handle", "workers.process"),
    ("workers.trial_run", "workers.worker"),
    ("workers.ray_launcher",),
    ("hpo.cli",),
)  # fmt: skip

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
    "optuna_dashboard": ("hpo.dashboard_app",),
    "rich": ("hpo.cli",),
    "click": ("hpo.cli",),
}
# A trainer gets a job and a `report`, and knows nothing of studies, database or MLflow
TRAINERS = ("workers.simulated", "workers.yolo")
KNOWN_TO_TRAINERS = ("hpo.errors", "hpo.trainer", "search_spaces", "workers.argument_checks")

MAY_PRINT = (
    "hpo.cli",
    "workers.child",  # its stdout is the training's log file
)
MOST_LINES = 400


def floor_of(name: str) -> int:
    """Number of the floor that the longest fitting name of FLOORS gives, from the top.

    A module without a place stands below all: it may import everything, and none may import it.
    """
    fitting = {
        entry: number
        for number, floor in enumerate(FLOORS)
        for entry in floor
        if within(name, entry) and (entry not in PACKAGES or entry in (name, "search_spaces"))
    }
    return fitting[max(fitting, key=len)] if fitting else len(FLOORS)


def own(module: Module, *, types: bool = True) -> set[str]:
    """The project's modules that it imports."""
    imported = module.all_imports if types else module.imports
    return {name for name in imported if name in modules()}


def test_every_module_has_a_place() -> None:
    """A new module stands on a floor before it is merged, and no place is kept for a lost one."""
    homeless = [name for name in modules() if floor_of(name) == len(FLOORS)]
    assert not homeless, "put them on a floor in FLOORS and in docs/architecture.md"
    empty = [
        entry
        for floor in FLOORS
        for entry in floor
        if not any(within(name, entry) for name in modules())
    ]
    assert not empty, "these no longer exist"


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
    """A trainer imports the protocol, the errors and its own files, nothing else of the project."""
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
