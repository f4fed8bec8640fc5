"""Nodes that cannot run workers: named with what they lack, left out, and no harm to the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import Project, wait_for
from support.ray_nodes import RayCluster, ray_cluster, ray_head, without_this_package

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

STUDY = """
study: choosy
trainer: simulated
search_space: simulated
budget: {trials: 6, epochs: 10}
pruner: none
train: {epoch_s: 1.0}
"""

PUBLISHED = """
import json, sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
published = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster"))
published["python_version"] = "3.10.4"
client.internal_kv_put(b"CLUSTER_METADATA", json.dumps(published).encode(), True, b"cluster")
"""


def make_study(project: Project) -> None:
    (project.folder / "hpo.yaml").write_text(STUDY)
    project.run("create-study")


@pytest.fixture
def cluster(project: Project, database_url: str) -> Iterator[RayCluster]:
    with ray_cluster(project, database_url) as one:
        make_study(project)
        yield one


def refused(project: Project, *words: str, code: int) -> str:
    """What a launch that must end with this exit code says."""
    before = project.logs()
    launched = project.start("launch", *words)
    try:
        assert launched.wait(timeout=120) == code, project.logs()
    finally:
        launched.kill()
        launched.wait()
    return project.logs().replace(before, "")


def test_unfit_nodes_are_left_out(cluster: RayCluster, tmp_path: Path) -> None:
    """Refused while all are unfit; with one that is fit the study ends there, and exactly."""
    project = cluster.project
    bare = cluster.add(ray=without_this_package(tmp_path / "bare"))
    poor = cluster.add(HPO_STORAGE=None)
    lost = cluster.add(HPO_HOME=str(tmp_path / "nowhere"))
    (tmp_path / "own" / "objects").mkdir(parents=True)
    alone = cluster.add(HPO_ARTIFACTS=str(tmp_path / "own"))
    far = cluster.add(HPO_STORAGE="postgresql://nobody@127.0.0.1:9/none")
    said = refused(project, "--address", cluster.address, code=2)
    assert "none of the cluster's 5 nodes can run workers" in said
    faults = {line.split()[1]: line for line in said.splitlines() if line.startswith("  - ")}
    assert "has no hpo-service" in faults[bare.address]
    assert "it has no HPO_STORAGE" in faults[poor.address]
    assert f"no folder {tmp_path / 'nowhere'}" in faults[lost.address]
    assert "are not those of the launching machine" in faults[alone.address]
    assert "127.0.0.1:9" in faults[far.address]
    assert project.json("status")["budget"]["claimed"] == 0

    fit = cluster.add()
    launched = project.start("launch", "--workers", "2", "--address", cluster.address)
    try:
        (pid,) = cluster.busy("choosy", 1)
        assert fit.trains(pid)
        late = cluster.add(HPO_HOME=str(tmp_path / "nowhere"))  # taken by the waiting worker
        wait_for(lambda: str(tmp_path / "nowhere") in after_start(project), "the late one is out")
        later = cluster.add(ray=without_this_package(tmp_path / "later"))
        wait_for(lambda: f"no worker on {later.address}" in project.logs(), "that one, too")
        assert launched.wait(timeout=200) == 0, project.logs()
    finally:
        launched.kill()
        launched.wait()
    assert f"no worker on {bare.address}" in project.logs()
    claims = cluster.claims("choosy")
    assert {row.ended for row in claims} == {"told"}
    assert len(claims) == 6
    assert late.raylet is not None


def after_start(project: Project) -> str:
    """What was said after the workers had their places."""
    return project.logs().rpartition("workers: 1 on")[2]


def test_workers_that_ask_for_too_much_are_told_so(cluster: RayCluster) -> None:
    """Nobody has two GPUs: it is said within seconds, with what the nodes have."""
    project = cluster.project
    cluster.add()
    launched = project.start("launch", "--gpus-per-worker", "2", "--address", cluster.address)
    try:
        text = "no node has room for a worker of 1 CPU and 2 GPU"
        wait_for(lambda: text in project.logs(), "it is said", 30)
        launched.terminate()
        assert launched.wait(timeout=60) == 0, project.logs()
    finally:
        launched.kill()
        launched.wait()


SHARED = """
import json, sys
import ray
from workers.ray_launcher.actor import Plan
from workers.ray_launcher.cluster import cluster
from workers.ray_launcher.launch import actor_class
from workers.study_loop import Limits
plan = Plan(study="none", workers=4, limits=Limits(), cpus=0.5, gpus=0.5)
with cluster(sys.argv[1], 2):
    actors = [actor_class(plan).remote(plan, None) for _ in range(plan.workers)]
    placements = ray.get([actor.where.remote() for actor in actors])
    more = actor_class(plan).remote(plan, None).where.remote()
    room = bool(ray.wait([more], timeout=3)[0])
    found = [[placement.address, *placement.gpus] for placement in placements]
    print(json.dumps({"placements": found, "room": room}))
"""


def test_fractions_share_a_gpu(cluster: RayCluster) -> None:
    """Half a GPU each: Ray gives each GPU to two workers, and to no third one.

    These GPUs are Ray's count alone. A launch sees that the machines have none, and says so.
    """
    nodes = [cluster.add("--num-gpus=1", cpus=4) for _ in range(2)]
    project = cluster.project
    done = subprocess.run(
        [sys.executable, "-c", SHARED, cluster.address], cwd=project.folder, env=project.env,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found["placements"]) == sorted(
        [node.address, "0"] for node in nodes for _ in range(2)
    )
    assert not found["room"]
    said = refused(project, "--address", cluster.address, "--gpus-per-worker", "0.5", code=2)
    assert said.count("this machine shows 0 GPUs") == 2


def test_clusters_of_other_versions_are_named(project: Project, tmp_path: Path) -> None:
    """Exit 3 with both versions, of Ray or of Python; an address of Ray Client's is refused."""
    import ray

    make_study(project)
    other = tmp_path / "other" / "ray"
    other.mkdir(parents=True)
    for entry in Path(ray.__file__).parent.iterdir():
        if entry.name not in ("_version.py", "__pycache__"):
            (other / entry.name).symlink_to(entry)
    version = (Path(ray.__file__).parent / "_version.py").read_text()
    (other / "_version.py").write_text(version.replace(ray.__version__, "2.59.9"))
    with ray_head(project, env={"PYTHONPATH": str(other.parent)}) as address:
        said = refused(project, "--address", address, code=3)
        assert "runs Ray 2.59.9 on Python" in said
        assert f"here is Ray {ray.__version__} on Python" in said
    with ray_head(project) as address:
        # No second Python is here: what the head tells the drivers is changed
        subprocess.run([sys.executable, "-c", PUBLISHED, address], env=project.env, check=True)
        said = refused(project, "--address", address, code=3)
        assert f"runs Ray {ray.__version__} on Python 3.10.4, here is" in said
    assert "Ray Client" in refused(project, "--address", f"ray://{address}", code=2)
