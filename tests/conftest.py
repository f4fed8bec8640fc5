"""Options, markers and the environment of all tests; what they share stands in tests/support."""

from __future__ import annotations

import os
import sys

import pytest

# Rewriting 4,000 assertions and compiling the sources takes seconds in each of the hundreds of
# processes that tests start: done once, whatever the developer's environment says
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

pytest.register_assert_rewrite("support")  # whichever of them is imported first
pytest_plugins = [
    "support.backups",
    "support.detector",
    "support.environment",
    "support.injected_time",
    "support.mirrored",
    "support.mlflow_server",
    "support.emptied",
    "support.postgres",
    "support.private_server",
    "support.provisioned",
    "support.pushing",
    "support.s3_server",
    "support.s3_trouble",
    "support.shared",
    "support.stores",
    "support.tls_front",
    "support.told",
    "support.worker_process",
    "support.command_line",
    "support.champions",
]


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
