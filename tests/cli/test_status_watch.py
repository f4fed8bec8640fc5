"""`hpo status --watch` without a terminal: what changed is there at once, and nothing else."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.studies import simulated_study

from hpo.cli.terminal.live import Printed, watch_view
from hpo.studies.status import status
from hpo.studies.store import set_state

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

# Looks more often than every two seconds
PROGRAM = """
import sys
from hpo.cli import status
from hpo.cli.main import cli
status.WATCH_S = 0.1
cli.main(sys.argv[1:], standalone_mode=False)
"""
WORKER = {
    "worker": "gpu-1:4711", "device": "cuda", "trial": 0, "epoch": 1, "value": 0.5, "lease_s": 9.0,
}  # fmt: skip


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_pipe_gets_it_while_it_lasts(
    database_url: str, engine: Engine, tmp_path: Path, term: str
) -> None:
    """`hpo status --watch | tee`: the first at once, the next when the study is stopped."""
    study = simulated_study(engine)
    env = os.environ | {"HPO_STORAGE": database_url, "HPO_HOME": str(tmp_path), "TERM": term}
    env.pop("PYTHONUNBUFFERED", None)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "status", "--watch"], env=env, cwd=tmp_path,
        stdout=subprocess.PIPE, text=True,
    ) as watched:  # fmt: skip
        try:
            assert watched.stdout is not None
            assert watched.stdout.readline().startswith(f"{study.name}  open  0/6 trials")
            set_state(engine, study, "stopped")
            rest = watched.stdout.read()
            assert watched.wait(60) == 0
        finally:
            watched.kill()
    assert f"{study.name}  stopped  0/6 trials" in rest
    assert "\x1b" not in rest


@pytest.fixture
def document(engine: Engine) -> dict[str, Any]:
    """Of a study that began."""
    return status(engine, simulated_study(engine)) | {"state": "running", "workers": [WORKER]}


def changed(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return copy.deepcopy(document) | changes


def test_an_epoch_is_a_line_and_a_change_of_state_the_whole(
    document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing where nothing changed but the time to go and a lease."""
    view = watch_view()
    assert isinstance(view, Printed)
    shown = [
        document,
        changed(document, eta_s=12.0, workers=[WORKER | {"lease_s": 8.0}]),
        changed(document, workers=[WORKER | {"epoch": 2, "value": 0.625}]),
        changed(document, workers=[], counts=document["counts"] | {"complete": 1}),
        changed(document, workers=[], warnings=["gpu-1:4711: no checkpoints"]),
        changed(document, workers=[], warnings=[], state="finished"),
    ]
    said = []
    for one in shown:
        view.show(one)
        said.append(capsys.readouterr().out.splitlines())
    assert said[0][0].startswith("simulated-test  running")
    assert said[1] == []
    assert [line.split("  ")[0] for line in said[2]] == ["trial 0: epoch 2/3"]
    assert "0.6250" in said[2][0]
    assert [line.split("  ")[0] for line in said[3]] == ["1 of 6 trials ended"]
    assert "warning: gpu-1:4711: no checkpoints" in said[4]
    assert said[5][0].startswith("simulated-test  finished")
