"""Three nodes under `hpo launch`: one is lost, one comes later, and the token is asked for."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING

import pytest
from support.command_line import Project, wait_for
from support.ray_nodes import RayCluster, ray_cluster

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from support.ray_nodes import Node
    from support.s3_server import S3Server

pytestmark = pytest.mark.cluster

STUDY = """
study: spread
trainer: simulated
search_space: simulated
budget: {trials: 12, epochs: 20}
pruner: none
train: {epoch_s: 1.0}
"""


@pytest.fixture
def cluster(project: Project, database_url: str) -> Iterator[RayCluster]:
    with ray_cluster(project, database_url) as one:
        yield one


def workers_on(node: Node, pids: set[int]) -> int:
    return sum(node.trains(pid) for pid in pids)


def finished(cluster: RayCluster, launched: subprocess.Popen[bytes], study: str) -> None:
    assert launched.wait(timeout=400) == 0, cluster.project.logs()
    status = cluster.project.json("status", "--study", study)
    assert (status["state"], status["workers"]) == ("finished", [])
    budget, counts = status["budget"], status["counts"]
    assert budget["claimed"] == budget["trials"] == counts["complete"] + counts["pruned"]


def test_three_nodes_one_lost_one_added(cluster: RayCluster) -> None:
    """A worker on each, the waiting one on a node added later, a dead node's trial taken over."""
    project = cluster.project
    refused_without_the_token(cluster)
    first = [cluster.add() for _ in range(3)]
    (project.folder / "hpo.yaml").write_text(STUDY)
    project.run("create-study")
    launched = project.start("launch", "--workers", "4", "--address", cluster.address)
    try:
        pids = cluster.busy("spread", 3)
        assert [workers_on(node, pids) for node in first] == [1, 1, 1]
        wait_for(lambda: "1 waiting: the nodes that fit are full" in project.logs(), "it is said")
        added = cluster.add()
        pids = cluster.busy("spread", 4)
        assert workers_on(added, pids) == 1
        first[0].lose()
        finished(cluster, launched, "spread")
    finally:
        launched.kill()
        launched.wait()
    claims = cluster.claims("spread")
    assert [row.ended for row in claims].count("silent") == 1
    assert [row.ended for row in claims].count("told") == 12
    (again,) = [row for row in claims if row.attempt == 2]
    assert again.resumed_epoch >= 1
    assert again.pid != next(row.pid for row in claims if row.ended == "silent")
    said = project.logs()
    assert f"1 on {added.address}" in said
    # Once, although its workers were two to begin with, or the first replacement was sent there
    assert said.count(f"the node {first[0].address} is lost; its workers go on elsewhere") == 1
    assert "worker died" not in said
    assert "(raylet)" not in said  # Ray's own lines on the lost node would spoil --json
    # Runs stand in each node's own folder, and none in that of the launching machine
    assert all((node.home / "runs").is_dir() for node in [*first, added])
    assert not (project.folder / ".hpo" / "runs").is_dir()


def refused_without_the_token(cluster: RayCluster) -> None:
    """Exit 3 in words that name the variable, for no token and for a wrong one."""
    project = cluster.project
    (project.folder / "hpo.yaml").write_text(STUDY.replace("spread", "unseen"))
    project.run("create-study", "--name", "unseen")
    right = dict(project.env)
    for wrong in ({"RAY_AUTH_TOKEN": secrets.token_hex(32)}, {"RAY_AUTH_MODE": "disabled"}):
        project.env |= wrong
        launched = project.start("launch", "--study", "unseen", "--address", cluster.address)
        assert launched.wait(timeout=60) == 3
        project.env = dict(right)
    assert "does not accept this token" in project.logs()
    assert "asks for a token" in project.logs()
    assert project.logs().count("Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN") == 2
    project.run("delete", "--study", "unseen", "--yes")


def test_a_cluster_without_a_shared_folder_as_readme_has_it(
    cluster: RayCluster, s3_server: S3Server, tmp_path: Path
) -> None:
    """YOLO trials on three nodes, data and weights in S3 alone; one node is lost in mid-trial.

    Each node's folder is its own, and the dataset is nowhere but in the store once it was pushed.
    The budget is exact, and a champion is promoted.
    """
    project = cluster.project
    artifacts = f"s3://{s3_server.bucket}/prefix"
    project.env |= s3_server.environment | {"HPO_ARTIFACTS": artifacts}
    project.run(
        "data", "shapes", "--imgsz", "64", "--train", "32", "--val", "16", "--test", "20",
        "-o", "shapes",
    )  # fmt: skip
    project.run(
        "create-study", "--name", "cells", "--data", "shapes/data.yaml", "--trials", "5",
        "--epochs", "4", "--set", "train.imgsz=64", "--set", "train.batch=8",
        "--set", "pruner.min_epochs=1", "--set", "promotion.min_value=-1",  # it learns nothing
    )  # fmt: skip
    pushed = project.json("data", "push", "shapes/data.yaml")
    # All nodes of this test are one machine: what only the launching one had would be theirs, too
    shutil.move(project.folder / "shapes", tmp_path / "aside")
    nodes = [cluster.add(HPO_ARTIFACTS=None) for _ in range(3)]
    launched = project.start(
        "launch", "--study", "cells", "--workers", "4", "--address", cluster.address
    )
    lost = nodes[2]
    try:
        assert workers_on(lost, cluster.busy("cells", 3)) == 1
        lost.lose()
        finished(cluster, launched, "cells")
    finally:
        launched.kill()
        launched.wait()
    claims = cluster.claims("cells")
    assert [row.ended for row in claims].count("told") == 5
    assert [row.ended for row in claims].count("silent") == 1
    for node in nodes:
        assert (node.home / "cache/datasets" / pushed["fingerprint"] / "data.yaml").is_file()
        assert not (node.home / "artifacts").exists()
    champion = project.json("champion", "--study", "cells")
    assert champion["version"] == 1
    held = [
        one["Key"]
        for page in s3_server.client().get_paginator("list_objects_v2").paginate(
            Bucket=s3_server.bucket
        )
        for one in page["Contents"]
    ]  # fmt: skip
    assert [key for key in held if key.startswith("prefix/objects/")]
    assert not [key for key in held if "/launch-" in key]
