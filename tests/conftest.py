"""Options, markers and the environment of all tests; what they share stands in tests/support.

A test's markers follow from the fixtures it uses and the folder it stands in, so that nobody has
to remember them: `make test-fast` runs what has none.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Rewriting 4,000 assertions and compiling the sources takes seconds in each of the hundreds of
# processes that tests start: done once, whatever the developer's environment says
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

pytest.register_assert_rewrite("support")  # whichever of them is imported first
pytest_plugins = [
    "support.backups",
    "support.training",
    "support.command_line",
    "support.postgres",
    "support.studies",
    "support.mlflow_server",
    "support.proxies",
    "support.stores",
    "support.s3_server",
    "support.shared",
    "support.promotion",
]

TESTS = Path(__file__).parent
# Marker -> the fixtures that cause it, used directly or through others; the slowest first
FIXTURES = {
    "training": {"trained"},
    "process": {
        "backing", "new_home", "process", "project", "pusher", "start_worker", "stopped_home",
        "runtime", "_s3_process",
    },
    "mlflow": {"mlflow_template"},
    "db": {"postgres_url", "new_home", "stopped_home"},
}  # fmt: skip
FOLDERS = {"e2e": "e2e", "workers_yolo": "training", "workers_ray": "ray"}
ORDER = ["e2e", "ray", *FIXTURES]
# Tests with one of these stay together by file: they warm up something that takes seconds
WARM = {"training", "process", "mlflow"}


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all processes of this run share; they inherit its name."""
    if not hasattr(config, "workerinput"):
        from support import shared

        shared.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what the run has started, when its other processes have ended."""
    if not hasattr(config, "workerinput"):
        from support import shared

        shared.end()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it needs; the slowest come first and files that warm up stay whole."""
    for item in items:
        for marker in needs(item):
            item.add_marker(marker)
        marked = {marker.name for marker in item.iter_markers()}
        if marked & WARM or has_shared_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=weight)


def needs(item: pytest.Item) -> list[str]:
    """Names of the markers that follow from a test's folder and fixtures."""
    used = set(getattr(item, "fixturenames", ()))
    found = [marker for marker, fixtures in FIXTURES.items() if used & fixtures]
    folder = item.path.relative_to(TESTS).parts[0]
    return [*found, FOLDERS[folder]] if folder in FOLDERS else found


def has_shared_fixture(item: pytest.Item) -> bool:
    """Whether it uses a fixture that its file or class makes once."""
    info = getattr(item, "_fixtureinfo", None)
    scopes = {} if info is None else info.name2fixturedefs
    return any(one[-1].scope in ("class", "module") for one in scopes.values())


def weight(item: pytest.Item) -> int:
    """Place in the order of a run: a long test that comes last leaves the other processes idle."""
    marked = {marker.name for marker in item.iter_markers()}
    return next((at for at, name in enumerate(ORDER) if name in marked), len(ORDER))
