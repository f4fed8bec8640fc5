"""One bad trial harms nobody: every way to fail has its reason, and the study goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from support.command_line import HPO
from support.studies import simulated_study
from support.training import install_trainer, wait_until

from hpo.errors import TRIAL_FAIL_REASONS
from hpo.studies.trials import trial_details, trial_rows

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine
    from support.command_line import StartWorker

    from hpo.settings import Settings
    from hpo.studies.store import Study

# Misbehaves before its second epoch is reported, each trial in its own way
TROUBLED = """
import os, signal, time
from dataclasses import replace
from hpo.errors import TrialError
from workers.simulated.trainer import SimulatedTrainer


class OutOfMemoryError(RuntimeError):
    "What torch raises when a GPU is full; it is known by its name."


def nan(): raise TrialError("diverged", "the loss of epoch 2 is NaN")
def error(): raise RuntimeError("told to fail")
def segfault(): os.kill(os.getpid(), signal.SIGSEGV)
def hang(): time.sleep(3600)
def memory(): raise MemoryError("told to be full")
def cuda(): raise OutOfMemoryError("told that the GPU is full")
def kernel(): os.kill(os.getpid(), signal.SIGKILL)


WAYS = [nan, error, segfault, hang, memory, cuda, kernel]


class Trainer(SimulatedTrainer):
    def train(self, job, report):
        def troubled(epoch):
            if epoch.number == 2 and job.trial < len(WAYS):
                WAYS[job.trial]()
            return report(epoch)
        return super().train(job, troubled)
"""
REASONS = [
    "diverged", "error", "crashed", "hung", "out_of_memory", "out_of_memory", "out_of_memory",
]  # fmt: skip


def last_attempt(engine: Engine, study: Study, number: int) -> tuple[int, int]:
    """(which attempt of the trial is the newest, pid of its worker); (0, 0) before the first."""
    with engine.connect() as connection:
        row = connection.execute(
            text(
                "select a.attempt, w.pid from hpo.attempt a join trials t using (trial_id) "
                "join hpo.worker w on w.worker_id = a.worker_id "
                "where t.study_id = :study and t.number = :number order by a.attempt desc limit 1"
            ),
            {"study": study.study_id, "number": number},
        ).one_or_none()
    return (0, 0) if row is None else (row.attempt, row.pid)


def recorded(engine: Engine, study: Study, number: int) -> int:
    """How many epochs of the trial are recorded."""
    with engine.connect() as connection:
        found = [row for row in trial_rows(connection, study) if row.number == number]
    return found[0].epochs if found else 0


def show(settings: Settings, study: Study, number: int) -> Any:
    """What `hpo show N --json` prints."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    done = subprocess.run(
        [HPO, "show", str(number), "--study", study.name, "--json"],
        env=env | {"HPO_STORAGE": str(settings.storage), "HPO_HOME": str(settings.home)},
        cwd=settings.home.parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.e2e
def test_every_way_to_fail_has_its_reason_and_costs_one_trial(
    here: Settings, engine: Engine, start_worker: StartWorker, tmp_path: Path
) -> None:
    """One worker meets them all, ends each trial FAIL, and runs the study to its end."""
    env = install_trainer(tmp_path / "troubled", "troubled", TROUBLED)
    study = simulated_study(engine, study="bad", trainer="troubled", trials=8)
    worker = start_worker(here, study, "--stall-timeout", "3s", **env)
    assert worker.ended() == 0, worker.said()
    with engine.connect() as connection:
        found = trial_rows(connection, study)
        details = [trial_details(connection, study, number) for number in range(8)]
    assert [row.state for row in found] == ["failed"] * 7 + ["complete"]
    assert [(row.reason or "").partition(":")[0] for row in found] == [*REASONS, ""]
    assert set(REASONS) == set(TRIAL_FAIL_REASONS), "the list is closed"
    told = [one["attributes"].get("fail_reason") for one in details]
    assert told == [*REASONS, None], "optuna-dashboard shows it too"
    assert [row.epochs for row in found] == [1] * 7 + [3], "what was recorded stays"
    assert [row.takeovers for row in found] == [0] * 8
    assert len({one["attempts"][0]["worker"] for one in details}) == 1


@pytest.mark.e2e
def test_a_trial_that_kills_three_workers_is_a_failure(
    here: Settings, engine: Engine, start_worker: StartWorker
) -> None:
    """Not taken over for ever: the third death without a new epoch ends it, and it counts."""
    settings = replace(here, lease_s=4.0)
    study = simulated_study(engine, study="deadly", trials=1, train={"hang_at": 2})
    workers = {worker.pid: worker for worker in (start_worker(settings, study) for _ in range(4))}
    for attempt in (1, 2, 3):
        wait_until(lambda n=attempt: last_attempt(engine, study, 0)[0] == n, f"attempt {attempt}")
        wait_until(lambda: recorded(engine, study, 0) == 1, "its first epoch")
        workers.pop(last_attempt(engine, study, 0)[1]).send(signal.SIGKILL)
    (survivor,) = workers.values()
    assert survivor.ended() == 0, survivor.said()
    shown = show(settings, study, 0)
    assert (shown["state"], shown["takeovers"], shown["epochs"]) == ("failed", 2, 1)
    assert shown["reason"].startswith("crashed: 3 workers")
    assert [one["attempt"] for one in shown["attempts"]] == [1, 2, 3]
    assert [one["how"] for one in shown["attempts"]] == ["silent"] * 3
    assert len({one["worker"] for one in shown["attempts"]}) == 3
    assert shown["attempts"][0]["resumed_epoch"] == 0
    assert shown["checkpoints"] == []
    with engine.connect() as connection:
        assert len(trial_rows(connection, study)) == 1, "no other trial is made in its place"


@pytest.mark.faults
def test_a_trial_that_came_further_each_time_is_not_given_up(
    here: Settings, engine: Engine, start_worker: StartWorker
) -> None:
    """Killed three times with new epochs in between, it is continued and completed."""
    settings = replace(here, lease_s=4.0)
    study = simulated_study(engine, study="unlucky", trials=1, epochs=8, train={"epoch_s": 0.5})
    workers = {worker.pid: worker for worker in (start_worker(settings, study) for _ in range(4))}
    for epochs in (2, 4, 6):
        wait_until(lambda n=epochs: recorded(engine, study, 0) >= n, f"epoch {epochs}")
        workers.pop(last_attempt(engine, study, 0)[1]).send(signal.SIGKILL)
    (survivor,) = workers.values()
    assert survivor.ended() == 0, survivor.said()
    shown = show(settings, study, 0)
    assert (shown["state"], shown["takeovers"], shown["epochs"]) == ("complete", 3, 8)
    assert [one["how"] for one in shown["attempts"]] == ["silent"] * 3 + ["told"]
    starts = [one["resumed_epoch"] for one in shown["attempts"]]
    assert starts == sorted(starts)
    # A kill repeats at most the epoch before it, whose upload was under way
    assert all(start >= epochs - 1 for start, epochs in zip(starts[1:], (2, 4, 6), strict=True))
    assert all(one["note"] is None for one in shown["attempts"])
