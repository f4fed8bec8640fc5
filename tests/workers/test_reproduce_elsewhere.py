"""Where a trial ran is recorded, and what has changed since is said when it is trained again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.studies import simulated_study
from support.training import again, change, work

from hpo.host.environment import this_machine
from hpo.storage.artifacts.opening import open_store
from hpo.studies.trials import trial_details
from workers.events import Event, Kind
from workers.reproduce.report import Sameness
from workers.reproduce.run import read_trial
from workers.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.settings import Settings


def test_a_worker_records_where_it_runs(here: Settings, engine: Engine) -> None:
    """Versions, processor and threads, shown with each attempt."""
    study = simulated_study(engine)
    work(here, study)
    with engine.connect() as connection:
        (attempt,) = trial_details(connection, study, 0)["attempts"]
    assert attempt["environment"] == this_machine("cpu", "simulated 1")


def test_what_differs_between_the_machines_is_said(
    here: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each; threads that nobody set here are taken as they were recorded."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    study = simulated_study(engine)
    work(here, study)
    changed = {"python": "3.10.1", "variables": {"OMP_NUM_THREADS": "2"}}
    change(
        engine, "update hpo.worker set environment = jsonb_set(environment || cast(:new as jsonb), "
        "'{packages,torch}', '\"2.14.0\"')", new=json.dumps(changed),
    )  # fmt: skip
    found = again(here, engine, study)
    here_now = this_machine("cpu", "simulated 1")
    assert sorted(found.environment) == [
        f"python 3.10.1 -> {here_now['python']}",
        f"torch 2.14.0 -> {here_now['packages']['torch']}",
    ]
    assert found.notes == ["set for this training as it was recorded: OMP_NUM_THREADS=2"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = again(here, engine, study)
    assert "OMP_NUM_THREADS 2 -> 1" in found.environment
    assert found.notes == []


@pytest.mark.promotion
def test_another_version_of_the_code_is_a_difference_and_no_hindrance(
    here: Settings, engine: Engine
) -> None:
    """That is what one reproduces for; a worker of old recorded nothing else."""
    study = simulated_study(engine)
    work(here, study)
    change(engine, "update hpo.worker set environment = null")
    older = replace(study, code_version="simulated 0")
    found = again(here, engine, older)
    assert found.verdict is Sameness.EQUAL
    assert found.environment == ["trainer simulated 0 -> simulated 1"]
    assert "was not recorded" in found.notes[0]


def test_a_trial_of_several_machines_is_compared_with_the_last(
    here: Settings, engine: Engine
) -> None:
    """A takeover may have changed the machine in mid-training: that is said."""
    study = simulated_study(engine, epochs=4)

    def leave(event: Event) -> None:
        if event.kind is Kind.EPOCH:
            first.drain()

    first = Worker(here, study.name, device="cpu", watch=leave, promote=False)
    first.run()
    change(
        engine, "update hpo.worker set host = 'elsewhere', environment = "
        "jsonb_set(environment, '{packages,numpy}', '\"1.0\"')",
    )  # fmt: skip
    work(here, study)
    found = again(here, engine, study)
    assert found.verdict is Sameness.EQUAL
    assert found.environment == []
    hosts, numpy = found.notes
    assert hosts.startswith("its 2 attempts ran on 2 machines, ")
    assert "elsewhere" in hosts
    assert numpy.startswith("between its attempt 1 and the last: numpy 1.0 -> ")


def test_other_arguments_in_use_are_said(here: Settings, engine: Engine, tmp_path: Path) -> None:
    """A batch that was halved for memory explains other figures; a lost record is no hindrance."""
    study = simulated_study(engine)
    work(here, study)
    sha256 = read_trial(engine, study, 0).files["effective.json"]
    store = open_store(here)
    used = json.loads(store.fetch(sha256, tmp_path / "effective.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(used | {"depth": 99}))
    kept = store.put(tmp_path / "other.json")
    statement = "update hpo.artifact set sha256 = :sha where name = 'effective.json'"
    change(engine, statement, sha=kept.sha256)
    assert again(here, engine, study).arguments == [f"depth 99 -> {used['depth']}"]
    change(engine, statement, sha="0" * 64)
    found = again(here, engine, study)
    assert found.verdict is Sameness.EQUAL
    assert "arguments that it was trained with are not compared" in found.notes[0]
