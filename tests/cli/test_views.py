"""What a person reads in a terminal of 80 columns: where a study stands, its trials, one trial."""

from __future__ import annotations

from datetime import datetime
from io import StringIO
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from hpo.cli.terminal.options import print_json, print_view
from hpo.cli.terminal.views import duration, params_text, status_view, trial_view, trials_view
from hpo.host.serialization import finite
from hpo.studies.trials import TrialSummary

STATUS: dict[str, Any] = {
    "study": "blood-cells", "state": "running", "simulated": False, "metric": "mAP50",
    "direction": "maximize", "budget": {"trials": 12, "claimed": 5, "epochs": 8},
    "counts": {"complete": 3, "pruned": 1, "failed": 0, "running": 1, "waiting": 0},
    "best": {"number": 2, "value": 0.61234, "epoch": 7, "params": {"lr0": 0.0123456, "nbs": 64}},
    "workers": [
        {"worker": "gpu-1:4711", "device": "cuda", "trial": 4, "epoch": 3, "value": 0.5,
         "lease_s": 29.0},
        {"worker": "gpu-2:12", "device": "cpu", "trial": None, "epoch": None, "value": None,
         "lease_s": None},
    ],
    "warnings": [], "eta_s": 754.0, "mirror": {"behind": 0}, "champion": None,
    "finals": None, "finals_of": None,
}  # fmt: skip
FINALS: dict[str, Any] = {
    "study": "blood-cells/finals", "trials": 3, "done": 2, "running": 1, "failed": 0, "waiting": 0,
    "workers": [
        {"worker": "gpu-3:5", "device": "cuda", "trial": 2, "epoch": 1, "value": 0.625,
         "lease_s": 9.0},
    ],
}  # fmt: skip
ROW = TrialSummary(
    number=3,
    state="failed",
    value=None,
    params={"lr0": 0.01},
    epochs=2,
    worker="gpu-1:1",
    takeovers=1,
    run_id=None,
    best_epoch=None,
    reason="diverged: NaN",
)
ATTEMPT = {
    "attempt": 1, "worker": "gpu-1:1", "claimed": None, "ended": datetime(2026, 11, 21, 12, 1, 2),  # noqa: DTZ001 - shown as it is
    "how": "silent", "resumed_epoch": 0, "note": None,
}  # fmt: skip


def seen(view: Any, width: int = 80) -> str:
    out = StringIO()
    Console(file=out, width=width).print(view)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_status_says_where_the_study_stands() -> None:
    """State, counts that are not zero, the best trial, who runs what, and how long it takes."""
    assert seen(status_view(STATUS)) == (
        "blood-cells  running  5/12 trials claimed\n"
        "3 complete  1 pruned  1 running\n"
        "best: trial 2  mAP50 0.6123 at epoch 7  lr0=0.01235 nbs=64\n"
        "worker      device  trial  epoch  mAP50\n"
        "gpu-1:4711  cuda    4      3/8    0.5000\n"
        "gpu-2:12    cpu     -      -      -\n"
        "about 13 min to go"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"mirror": {"behind": 2}}, "MLflow is 2 trials behind"),
        (
            {"mirror": {"behind": 1}, "workers": []},
            "MLflow is 1 trial behind: `hpo mirror sync` catches up",
        ),
        (
            {"warnings": ["gpu-1:4711: checkpoints are not stored"]},
            "warning: gpu-1:4711: checkpoints are not stored",
        ),
        ({"simulated": True}, "SIMULATED: no model is trained, the figures mean nothing"),
        (
            {"champion": {"model": "cells", "version": 3, "trial": 2, "study": "blood-cells"}},
            "champion: cells version 3, trial 2 of blood-cells",
        ),
        ({"state": "finished", "decided": False}, "not promoted yet: `hpo finalize`"),
        ({"finals": FINALS}, "finals: 2 of 3 evaluated"),
        ({"finals": FINALS | {"failed": 1}}, "finals: 2 of 3 evaluated, 1 failed"),
        ({"finals": FINALS}, "gpu-3:5  cuda    2      1      0.6250"),
    ],
)
def test_status_says_what_needs_to_be_said(changes: dict[str, Any], line: str) -> None:
    """A lagging mirror, a simulation, a champion: each a line of its own."""
    assert line not in seen(status_view(STATUS)).splitlines()
    assert line in seen(status_view(STATUS | changes)).splitlines()


def test_nothing_is_to_be_promoted_while_finals_run() -> None:
    """`hpo finalize` is asked for when the last of them has ended."""
    finished = STATUS | {"state": "finished", "decided": False, "finals": FINALS}
    assert "not promoted" not in seen(status_view(finished))
    finished |= {"finals": FINALS | {"running": 0, "done": 3}}
    assert "not promoted yet: `hpo finalize`" in seen(status_view(finished))


def test_a_study_that_did_not_begin_has_nothing_to_catch_up() -> None:
    """Waiting trials are not in MLflow, and nobody needs to do anything about it."""
    counts = dict.fromkeys(STATUS["counts"], 0) | {"waiting": 1}
    fresh = {"mirror": {"behind": 1}, "workers": [], "counts": counts, "best": None, "eta_s": None}
    assert "MLflow" not in seen(status_view(STATUS | fresh))


def test_trials_say_why_they_failed_and_that_they_are_simulated() -> None:
    """The reason's first word stands beside the state; made-up figures are called so."""
    text = seen(trials_view([ROW], "mAP50", simulated=True))
    assert text.splitlines()[0] == "SIMULATED: no model is trained, the figures mean nothing"
    assert "3      failed (diverged)  -      2       lr0=0.01    gpu-1:1  1" in text
    assert "SIMULATED" not in seen(trials_view([ROW], "mAP50", simulated=False))


def test_one_trial_shows_every_epoch_and_file() -> None:
    """The figures of each epoch in columns, NaN as a dash, and files by name and hash."""
    details = vars(ROW) | {
        "simulated": True,
        "history": [
            {"epoch": 1, "at": None, "mAP50": 0.25, "loss": 1.5},
            {"epoch": 2, "at": None, "mAP50": None, "loss": 1.25},
        ],
        "attempts": [ATTEMPT],
        "checkpoints": [],
        "files": [{"name": "weights/best.pt", "bytes": 12, "sha256": "ab" * 32}],
    }
    assert seen(trial_view(details, "mAP50")) == (
        "trial 3: failed\n"
        "SIMULATED: no model is trained, the figures mean nothing\n"
        "mAP50: - at epoch -\n"
        "parameters: lr0=0.01\n"
        "worker: gpu-1:1, takeovers: 1\n"
        "MLflow run: -\n"
        "failed: diverged: NaN\n"
        "epoch  mAP50   loss\n"
        "1      0.2500  1.5000\n"
        "2      -       1.2500\n"
        "weights/best.pt  12 bytes  sha256 abababababab"
    )


def test_a_trial_tells_its_takeovers() -> None:
    """Who had it, from which epoch on, how that ended, and what was wrong with a checkpoint."""
    second = {
        "attempt": 2, "worker": "gpu-2:7", "claimed": None, "ended": None, "how": None,
        "resumed_epoch": 4, "note": "checkpoint of epoch 5 was altered",
    }  # fmt: skip
    kept = {"epoch": 6, "bytes": 49, "best_epoch": 5, "at": None}
    details = vars(ROW) | {
        "simulated": False, "history": [], "files": [], "attempts": [ATTEMPT, second],
        "checkpoints": [kept],
    }  # fmt: skip
    lines = seen(trial_view(details, "mAP50"), width=120).splitlines()
    assert lines[-3:] == [
        "attempt 1: gpu-1:1 began at the start, fell silent (noticed at 2026-11-21 12:01:02)",
        "attempt 2: gpu-2:7 went on after epoch 4, has it now (checkpoint of epoch 5 was altered)",
        "checkpoint of epoch 6  49 bytes, best epoch 5",
    ]


def test_lines_are_not_folded_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """`hpo trials | grep` finds a trial and its parameters on one line."""
    params = {f"parameter_{number}": 0.5 for number in range(6)}
    row = TrialSummary(
        number=0,
        state="complete",
        value=0.5,
        params=params,
        epochs=8,
        worker="host:1",
        takeovers=0,
        run_id=None,
        best_epoch=1,
        reason=None,
    )
    print_view(trials_view([row], "mAP50", simulated=False))
    assert params_text(params) in capsys.readouterr().out


def test_json_has_neither_nan_nor_infinity() -> None:
    """They become null at any depth: JSON knows neither."""
    document = {"a": float("nan"), "b": [float("inf"), {"c": -float("inf")}], "d": (1.5, "x")}
    assert finite(document) == {"a": None, "b": [None, {"c": None}], "d": [1.5, "x"]}
    import click

    command = click.Command("show", callback=lambda: print_json(document))
    assert "NaN" not in CliRunner().invoke(command).output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (9000, "2.5 h")],
)
def test_durations_are_rounded_for_people(seconds: float, text: str) -> None:
    """Seconds, then minutes, then hours."""
    assert duration(seconds) == text
