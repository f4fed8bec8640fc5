"""What collecting the tests costs: no library that takes seconds to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.sources import ROOT

HEAVY = {"mlflow", "ray", "torch", "ultralytics", "pandas", "boto3", "optuna_dashboard"}
COLLECT = """
import json, sys
import pytest

code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "-m", "", "tests"])
print(json.dumps([int(code), sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.process
def test_collecting_imports_no_library_that_takes_seconds() -> None:
    """Each test process and the one that hands out the tests would pay for it before any test."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", COLLECT], cwd=ROOT, env=env, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stdout
    assert set(modules) & HEAVY == set()
