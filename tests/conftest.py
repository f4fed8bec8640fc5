"""Fixtures that every test may use; they stand in tests/fixtures, one noun a file."""

from __future__ import annotations

pytest_plugins = [
    "fixtures.environment",
    "fixtures.mirrored",
    "fixtures.mlflow_server",
    "fixtures.postgres",
    "fixtures.private_server",
    "fixtures.told",
    "fixtures.command_line",
]
