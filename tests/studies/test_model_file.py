"""The file that trainings start from: pinned when the study is created, kept in the store."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from support.command_line import Project, wait_for
from support.training import install_trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

# Says in its weights' place what it started from; where the file is missing it may be downloaded
STARTER = """
from dataclasses import replace
from pathlib import Path
from hpo.errors import TrialError
from workers.simulated.trainer import SimulatedTrainer


class Trainer(SimulatedTrainer):
    def describe(self):
        return replace(super().describe(), name="starter")

    def start_file(self, model):
        return Path(model).absolute()

    def prepare(self, model):
        file = Path(model).absolute()
        if model == "nowhere.pt":
            raise TrialError("error", "nobody has nowhere.pt", hint="Put it here.")
        if not file.exists():
            file.write_text("good")
        return file

    def train(self, job, report):
        found = Path(job.model)
        if found.name != "mine.pt" or found.read_text() != "good":
            raise TrialError("error", f"started from {found}: {found.read_text()}")
        return super().train(job, report)
"""
GOOD = hashlib.sha256(b"good").hexdigest()


@pytest.fixture
def machine(tmp_path: Path, database_url: str, mlflow_url: str) -> Callable[[str], Project]:
    """Machines that share a database and a store, and the trainer `starter`."""
    variables = install_trainer(tmp_path / "starter", "starter", STARTER)

    def made(name: str) -> Project:
        (tmp_path / name / ".hpo").mkdir(parents=True)
        one = Project(tmp_path / name)
        one.env |= variables | {
            "HPO_STORAGE": database_url,
            "HPO_ARTIFACTS": str(tmp_path / "store"),
            "MLFLOW_TRACKING_URI": mlflow_url,
        }
        return one

    return made


def create(project: Project, model: str, *more: str, code: int = 0) -> Any:
    """Create a study of two trials that starts from `model`."""
    spec = {
        "study": "starts", "trainer": "starter", "model": model, "search_space": "space.yaml",
        "budget": {"trials": 2, "epochs": 2}, "sampler": {"name": "random"},
        "pruner": {"name": "none"}, "train": {"epoch_s": 0.01}, "promotion": "none",
    }  # fmt: skip
    x = {"type": "float", "low": 0.0, "high": 1.0}
    space = {"name": "space", "description": "x alone", "trainer": "starter"}
    space |= {"parameters": {"x": x}}
    (project.folder / "space.yaml").write_text(json.dumps(space))
    (project.folder / "hpo.yaml").write_text(json.dumps(spec))
    if code:
        return project.run("create-study", *more, code=code)
    return project.json("create-study", *more)


@pytest.mark.e2e
def test_workers_start_from_what_the_study_was_created_with(
    machine: Callable[[str], Project], tmp_path: Path
) -> None:
    """Whatever lies there later, on a machine that never had it; a trial is made again likewise."""
    first, second = machine("first"), machine("second")
    (first.folder / "mine.pt").write_text("good")
    assert create(first, "mine.pt")["model_sha256"] == GOOD
    (first.folder / "mine.pt").write_text("other")
    stored = set((tmp_path / "store").rglob("*"))
    create(first, "mine.pt", "--exist-ok", code=2)
    assert set((tmp_path / "store").rglob("*")) == stored  # nothing of another study's
    first.run("worker", "--study", "starts", "--n-trials", "1")
    second.run("worker", "--study", "starts")
    assert second.json("status", "--study", "starts")["counts"]["complete"] == 2
    second.run("reproduce", "1", "--study", "starts")
    assert not list(second.folder.rglob("mine.pt"))  # no worker leaves it behind


@pytest.mark.e2e
def test_a_takeover_goes_on_from_the_checkpoint(
    machine: Callable[[str], Project], engine: Engine
) -> None:
    """Although the file lies elsewhere in each worker's own folder."""
    first, second = machine("first"), machine("second")
    (first.folder / "mine.pt").write_text("good")
    create(first, "mine.pt", "--epochs", "8", "--set", "train.epoch_s=1", "--trials", "1")
    killed = first.start("worker", "--study", "starts")

    def stored() -> bool:
        with engine.connect() as connection:
            return bool(connection.scalar(text("select count(*) from hpo.checkpoint")))

    try:
        wait_for(stored, "a checkpoint")
    finally:
        killed.kill()
        killed.wait()
    went_on = second.start("worker", "--study", "starts")
    assert went_on.wait(120) == 0, second.logs()
    assert "goes on after epoch" in second.logs()
    assert "not used" not in second.logs()


def test_a_missing_file_is_downloaded_when_the_study_is_created(
    machine: Callable[[str], Project],
) -> None:
    """Once, by who creates it; where that fails there is no study."""
    first = machine("first")
    create(first, "nowhere.pt", code=1)
    assert first.json("list") == []
    assert create(first, "mine.pt")["model_sha256"] == GOOD
    (first.folder / "mine.pt").unlink()
    first.run("worker", "--study", "starts")
    assert first.json("status", "--study", "starts")["counts"]["complete"] == 2


def test_an_altered_copy_is_not_used(machine: Callable[[str], Project], tmp_path: Path) -> None:
    """The worker leaves before it claims a trial, and says which file it is about."""
    first = machine("first")
    (first.folder / "mine.pt").write_text("good")
    create(first, "mine.pt")
    (tmp_path / "store/objects" / GOOD[:2] / GOOD).write_text("evil")
    worker = first.start("worker", "--study", "starts")
    assert worker.wait(120) == 1
    assert "trials of 'starts' start from mine.pt" in first.logs()
    assert "was altered" in first.logs()
    assert first.json("status", "--study", "starts")["counts"]["complete"] == 0
    assert "hpo create-study --exist-ok" in first.logs()
    assert not create(first, "mine.pt", "--exist-ok")["created"]
    first.run("worker", "--study", "starts")
    (tmp_path / "store/objects" / GOOD[:2] / GOOD).unlink()
    first.run("reproduce", "0", "--study", "starts", code=2)  # 1 would say that it came out another
