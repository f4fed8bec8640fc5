"""Fixtures that every test may use; they stand in tests/support, one noun a file."""

from __future__ import annotations

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
    "support.stores",
    "support.tls_front",
    "support.told",
    "support.worker_process",
    "support.command_line",
    "support.champions",
]
