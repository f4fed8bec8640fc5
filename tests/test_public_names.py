"""The names that `hpo` offers to other packages: which they are, their cost, their types."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from mypy import api as mypy
from support.sources import ROOT

import hpo
import hpo.errors
import hpo.studies.spec
import hpo.tracking.callback
import hpo.trainer

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("mlflow", "numpy", "optuna", "ray", "sqlalchemy", "torch", "ultralytics", "yaml")
LOADED = f"""
import json, sys
import hpo
print(json.dumps([hpo.__version__, [name for name in {HEAVY} if name in sys.modules],
                  [name for name in sys.modules if name.startswith("hpo.")]]))
"""
CONSUMER = """
import hpo
from hpo import HpoError, MirrorCallback, StudySpec, Trainer

def use(trainer: Trainer, spec: StudySpec, error: HpoError, callback: MirrorCallback) -> None:
    reveal_type(trainer.describe().code_version)
    reveal_type(spec.seed)
    reveal_type(error.exit_code)
    reveal_type(callback.close())
    reveal_type(hpo.__version__)
    hpo.Study
"""


def test_public_names_are_these() -> None:
    """A name that goes breaks other packages; one that comes is a promise."""
    public = ["HpoError", "MirrorCallback", "StudySpec", "Trainer", "__version__"]
    assert hpo.__all__ == public
    assert set(public) <= set(dir(hpo))
    assert hpo.HpoError is hpo.errors.HpoError
    assert hpo.MirrorCallback is hpo.tracking.callback.MirrorCallback
    assert hpo.StudySpec is hpo.studies.spec.StudySpec
    assert hpo.Trainer is hpo.trainer.Trainer
    with pytest.raises(AttributeError, match="module 'hpo' has no attribute 'Study'"):
        _ = hpo.Study  # type: ignore[attr-defined]


def test_public_names_are_loaded_when_they_are_used() -> None:
    """`import hpo` loads no library and no other module of ours."""
    told = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(told.stdout) == [hpo.__version__, [], []]


@pytest.mark.process
def test_public_names_have_their_types_for_mypy(tmp_path: Path) -> None:
    """Whoever uses them is checked against them, and a name that is none is an error."""
    consumer = tmp_path / "consumer.py"
    consumer.write_text(CONSUMER)
    homes = (hpo, hpo.errors, hpo.studies.spec, hpo.tracking.callback, hpo.trainer)
    # Nothing else is read: the types of SQLAlchemy and Optuna alone take a minute
    options = ["--config-file=", "--follow-imports=skip", "--cache-dir", str(tmp_path / "cache")]
    found, errors, _ = mypy.run([*options, str(consumer), *(str(one.__file__) for one in homes)])
    assert errors == ""
    lines = [line.partition(": ")[2] for line in found.splitlines() if "consumer.py" in line]
    types = ("str", "int", "int", "bool", "str")
    assert lines[: len(types)] == [f'note: Revealed type is "{name}"' for name in types]
    assert lines[len(types)].startswith('error: Module has no attribute "Study"')


@pytest.mark.parametrize("package", ["hpo", "search_spaces", "workers"])
def test_public_names_are_shipped_with_the_mark_of_a_typed_package(package: str) -> None:
    """PEP 561: without it, type checkers take everything for Any."""
    assert (ROOT / package / "py.typed").read_text() == ""
