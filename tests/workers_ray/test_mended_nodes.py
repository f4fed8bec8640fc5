"""Nodes whose services are others than the launching machine's, or away for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults.http_proxy import NONE, Fault, HttpProxy
from support.command_line import Project, wait_for
from support.postgres import database_of
from support.ray_nodes import RayCluster, ray_cluster
from support.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.cluster

STUDY = """
study: choosy
trainer: simulated
search_space: simulated
budget: {trials: 6, epochs: 10}
pruner: none
train: {epoch_s: 1.0}
"""


def make_study(project: Project) -> None:
    (project.folder / "hpo.yaml").write_text(STUDY)
    project.run("create-study")


@pytest.fixture
def cluster(project: Project, database_url: str, s3_server: S3Server) -> Iterator[RayCluster]:
    """One with a study, whose artifacts are in S3."""
    project.env |= s3_server.environment | {"HPO_ARTIFACTS": f"s3://{s3_server.bucket}/lab"}
    with ray_cluster(project, database_url) as one:
        make_study(project)
        yield one


@pytest.fixture
def other_s3(s3_server: S3Server, tmp_path: Path) -> Iterator[S3Server]:
    """Another server, with a bucket of the same name."""
    one = S3Server(tmp_path)
    try:
        one.start()
        one.new_bucket(s3_server.bucket)
        yield one
    finally:
        one.stop()


def test_nodes_of_other_services_get_no_trial(
    cluster: RayCluster, other_s3: S3Server, postgres_url: str, template_database: str
) -> None:
    """A database with a study of that name, an S3 with a bucket of that name: both are left out.

    So is a node of the kind that comes while workers wait for room.
    """
    project = cluster.project
    with database_of(postgres_url, template_database) as other:
        own = dict(project.env)
        project.env |= {"HPO_STORAGE": other}
        make_study(project)
        project.env = own
        strange = [
            cluster.add(HPO_STORAGE=other),
            cluster.add(AWS_ENDPOINT_URL=other_s3.url),
        ]
        fit = cluster.add()
        launched = project.start("launch", "--workers", "2", "--address", cluster.address)
        try:
            wait_for(lambda: "1 waiting" in project.logs(), "one waits for room")
            strange.append(cluster.add(HPO_STORAGE=other))
            wait_for(lambda: f"no worker on {strange[2].address}" in project.logs(), "it is out")
            assert launched.wait(timeout=200) == 0, project.logs()
        finally:
            launched.kill()
            launched.wait()
        assert f"1 on {fit.address}" in project.logs()
        assert [f"no worker on {node.address}" in project.logs() for node in strange] == [True] * 3
        assert "1 on 127.0.3" in project.logs()
        assert len(cluster.claims("choosy")) == 6
        project.env |= {"HPO_STORAGE": other}
        assert project.json("status")["budget"]["claimed"] == 0
        project.env = own
    listed = other_s3.client().list_objects_v2(Bucket=other_s3.bucket)
    assert listed["KeyCount"] == 0


def test_a_node_whose_store_was_away_is_used_once_it_is_there(
    cluster: RayCluster, s3_server: S3Server
) -> None:
    """Exit 3 while that is all that any node lacks; with another node, it is not given up."""
    project = cluster.project
    with HttpProxy(s3_server.url, Fault(refuse=True)) as way:
        slow = cluster.add(AWS_ENDPOINT_URL=way.url)
        launched = project.start("launch", "--address", cluster.address)
        assert launched.wait(timeout=120) == 3, project.logs()
        assert "the cluster's node cannot run workers" in project.logs()
        cluster.add()
        launched = project.start("launch", "--workers", "2", "--address", cluster.address)
        try:
            (first,) = cluster.busy("choosy", 1)
            assert not slow.trains(first)
            wait_for(lambda: "1 waiting" in project.logs(), "one waits for room")
            way.fault = NONE
            pids = cluster.busy("choosy", 2)
            assert sum(slow.trains(pid) for pid in pids) == 1
            assert project.logs().count(f"workers can run on {slow.address}") == 1
            assert launched.wait(timeout=200) == 0, project.logs()
        finally:
            launched.kill()
            launched.wait()
    claims = cluster.claims("choosy")
    assert [row.ended for row in claims] == ["told"] * 6
