"""What Docker's own Compose adds to the file: nodes by number, a profile, exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.containers import SMALL, run, wait

if TYPE_CHECKING:
    from support.containers import Team

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(3600)]


@pytest.mark.usefixtures("study")
def test_nodes_come_and_go_by_scale(team: Team) -> None:
    """`--scale worker=3` adds one and leaves the others alone; workers start on it at once."""
    if team.is_old:
        pytest.skip("podman-compose knows no --scale")
    team.scale(2)  # the killed one again
    before = set(team.ids("worker", stopped=False))
    team.scale(3)
    after = set(team.ids("worker", stopped=False))
    assert before < after
    (added,) = after - before
    host = team.inspect(added)["Config"]["Hostname"]
    ready = (team.engine, "exec", added, "healthcheck")
    wait(lambda: run(*ready, check=False).returncode == 0, "the new node", 120)
    team.hpo("create-study", "--name", "scaled", *SMALL, "--set", "promotion=none")
    team.hpo("launch", "--workers", "3", "--study", "scaled")
    assert host in team.sql("select distinct host from hpo.worker")
    team.scale(1)
    assert len(team.ids("worker", stopped=False)) == 1
    team.scale(2)


@pytest.mark.usefixtures("study")
def test_the_profile_of_gpus_takes_the_nodes_place(team: Team) -> None:
    """Started by its profile alone, beside no other node; a machine without devices has none."""
    if team.is_old:
        pytest.skip("podman-compose knows no profiles")
    if team.engine == "docker" and "nvidia" not in run("docker", "info").stdout:
        pytest.skip("Docker starts no container with NVIDIA devices here")
    assert not team.ids("worker-gpu")
    try:
        team.scale(0, profile="gpu")
        assert len(team.ids("worker-gpu", stopped=False)) == 1
        assert not team.ids("worker", stopped=False)
    finally:
        team.compose("--profile", "gpu", "rm", "-sf", "worker-gpu")
        team.scale(2)


@pytest.mark.usefixtures("study")
def test_the_exit_code_of_a_command_is_its_own(team: Team) -> None:
    """`docker compose run` hands it on to a script."""
    if team.is_old:
        pytest.skip("podman-compose hands on no exit code")
    assert team.hpo("status", "--study", "none", check=False).returncode == 2
