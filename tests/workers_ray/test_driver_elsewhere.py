"""`hpo launch` on a machine where no node of the cluster runs, as from a container of its own."""

from __future__ import annotations

import shutil
import subprocess

import psutil
import pytest
from support.command_line import HPO, Project
from support.ray_nodes import ray_cluster

pytestmark = pytest.mark.cluster

STUDY = """
study: remote
trainer: simulated
search_space: simulated
budget: {trials: 4, epochs: 6}
pruner: none
train: {epoch_s: 0.5}
"""
# Processes of a process-id namespace see no others: Ray finds no node on this machine
ELSEWHERE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


def raylets(address: str) -> int:
    """Of that cluster, on this machine."""
    found = psutil.process_iter(["name", "cmdline"])
    return sum(
        one.info["name"] == "raylet" and any(address in word for word in one.info["cmdline"])
        for one in found
    )


def test_a_driver_brings_a_node_without_room_with_it(project: Project, database_url: str) -> None:
    """The study runs on the cluster's node alone, and the driver's node is gone afterwards."""
    assert shutil.which("unshare"), "util-linux is needed"
    with ray_cluster(project, database_url) as cluster:
        node = cluster.add()
        (project.folder / "hpo.yaml").write_text(STUDY)
        project.run("create-study")
        before = raylets(cluster.address)
        done = subprocess.run(
            [*ELSEWHERE, HPO, "launch", "--address", cluster.address, "--workers", "1"],
            cwd=project.folder, env=project.env, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"1 on {node.address}" in done.stderr
        assert raylets(cluster.address) == before == 2
        status = project.json("status")
        assert (status["state"], status["counts"]["complete"]) == ("finished", 4)
