"""One project of the compose file for all tests of this folder, in the order in which they stand.

A study of real YOLO trainings on two Ray nodes, one of which is killed.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.containers import (
    COMPOSER,
    SMALL,
    STUDY,
    TEAM,
    PodmanApi,
    Team,
    build,
    composer,
    engine,
    run,
    wait,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Everything up, with two Ray nodes."""
    program = engine()
    build(program)
    with ExitStack() as stack:
        env = None
        if composer(program) == COMPOSER:
            # Not pytest's folder: the path of a socket is short
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            env = stack.enter_context(PodmanApi(folder)).env
        team = Team(program, tmp_path_factory.mktemp("team"), nodes=2, env=env)
        stack.callback(team.down, "-v")
        print(f"starting it with {team.composer}", flush=True)
        team.up()
        yield team


def on_nodes(team: Team) -> list[str]:
    """Hosts that have a trial with a stored epoch at this moment."""
    return team.sql(
        "select distinct w.host from hpo.lease l join hpo.worker w using (worker_id)"
        "  join hpo.checkpoint c using (trial_id) where l.told_at is null"
    )


@pytest.fixture(scope="session")
def study(team: Team) -> Any:
    """The study's status when all is over: `hpo launch`, and a node killed on the way."""
    create, launch = (line.split(" hpo ")[1].split() for line in TEAM[2:])
    alone = ["--no-deps"] if team.is_old else []  # an old one would start all that has ended
    team.compose("run", "--rm", "-T", *alone, "hpo", *create, *SMALL)
    team.compose("run", "-d", *alone, "hpo", *launch)
    nodes = {team.inspect(one)["Config"]["Hostname"]: one for one in team.ids("worker")}
    assert len(nodes) == 2
    busy = wait(lambda: on_nodes(team), "a trial with a checkpoint", 240)
    run(team.engine, "kill", "--signal", "KILL", nodes[busy[0]])
    print("killed a node in mid-trial", flush=True)

    def over() -> Any:
        status = team.json("status", "--study", STUDY)
        return status if status["state"] == "finished" and status["champion"] else None

    return wait(over, "the study to end and its best to be promoted", 900)
