"""Fixtures that every test may use; they stand in tests/fixtures, one noun a file."""

from __future__ import annotations

pytest_plugins = [
    "fixtures.backups",
    "fixtures.detector",
    "fixtures.environment",
    "fixtures.injected_time",
    "fixtures.mirrored",
    "fixtures.mlflow_server",
    "fixtures.emptied",
    "fixtures.postgres",
    "fixtures.private_server",
    "fixtures.provisioned",
    "fixtures.pushing",
    "fixtures.s3_server",
    "fixtures.s3_trouble",
    "fixtures.stores",
    "fixtures.tls_front",
    "fixtures.told",
    "fixtures.worker_process",
    "fixtures.command_line",
    "fixtures.champions",
]
