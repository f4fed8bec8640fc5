"""`hpo status` and its like read PostgreSQL and load nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.studies import simulated_study

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

HEAVY = {
    "alembic", "boto3", "mlflow", "numpy", "optuna", "pandas", "ray", "scipy", "torch",
    "ultralytics",
}  # fmt: skip
PROGRAM = """
import json, sys
from hpo.cli.main import cli
cli.main(sys.argv[1:], standalone_mode=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["status", "trials", "list"])
def test_reading_a_study_loads_nothing_heavy(
    command: str, database_url: str, engine: Engine, tmp_path: Path
) -> None:
    """It answers in a moment on any machine, one without torch, Ray and MLflow included."""
    study = simulated_study(engine)
    environment = os.environ | {"HPO_STORAGE": database_url, "HPO_HOME": str(tmp_path / ".hpo")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, command],
        capture_output=True, text=True, check=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert (study.name in done.stdout) or command == "trials"
    assert set(json.loads(done.stderr.splitlines()[-1])) & HEAVY == set()
