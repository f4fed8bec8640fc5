"""Commands start quickly: heavy libraries load only where they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "alembic", "boto3", "botocore", "mlflow", "numpy", "optuna", "pandas", "psycopg2", "ray",
    "rich", "scipy", "sqlalchemy", "torch", "ultralytics", "yaml",
}  # fmt: skip

PROGRAM = """
import json, sys
from hpo.cli.main import cli
try:
    cli.main(sys.argv[1:])
finally:
    print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_by(*arguments: str) -> set[str]:
    """Top-level names of all modules that the command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """`hpo --help` answers at once."""
    assert loaded_by(*arguments) & HEAVY == set()


@pytest.mark.parametrize("command", ["status", "trials", "list", "worker", "launch", "up"])
def test_a_commands_help_loads_no_training_and_no_tracking(command: str) -> None:
    """Reading a command's help waits for neither torch, Ray, MLflow nor Optuna."""
    heaviest = {"mlflow", "optuna", "pandas", "ray", "scipy", "torch", "ultralytics"}
    assert loaded_by(command, "--help") & heaviest == set()
