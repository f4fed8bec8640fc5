"""A short slice of the fault suite: real workers, a real database, one seeded plan of faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults import audit, bugs, schedule, studies
from faults.run import besiege, broken
from faults.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What needs MLflow's server, and what takes long, is left to `make chaos`
LEFT_OUT = frozenset({
    schedule.NO_MLFLOW, schedule.MLFLOW_RESTART, schedule.SLOW, schedule.ERRORS, schedule.REFUSED,
    schedule.RESTART,
})  # fmt: skip
KILLS = 5


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose MLflow is a database."""
    with World(tmp_path / "world", server=False) as one:
        audit.install(one.engine)
        yield one


@pytest.mark.e2e
def test_a_study_under_faults_keeps_every_promise(world: World) -> None:
    """Killed, paused and cut off, it ends with its budget, and MLflow equals PostgreSQL."""
    task = studies.simulated("slice", 1, trials=5, workers=2)
    record = besiege(world, task, schedule.plan(1, KILLS, without=LEFT_OUT), promotion=False)
    assert list(broken(record)) == []
    assert {one.kind for one in record.ordeal.faults} & {*schedule.KILLS, schedule.PAUSE}


@pytest.mark.faults
def test_a_planted_bug_is_seen(world: World) -> None:
    """With a fence that does not look at the token, a paused worker's late write breaks a check."""
    assert bugs.see(world, bugs.BUGS[0], "planted", 1) is not None
