"""A cluster that grows and shrinks by itself: pending workers are what it grows by."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.command_line import Project, free_port, wait_for
from support.ray_nodes import own_address, ray_head

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

STUDY = """
study: grown
trainer: simulated
search_space: simulated
budget: {trials: 4, epochs: 6}
pruner: none
train: {epoch_s: 0.5}
"""

# Ray's own autoscaler, with the provider by which Ray tests it: nodes are processes of this machine
CONFIG = {
    "cluster_name": "grown",
    "max_workers": 3,
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "small": {
            "resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3,
        },
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.05,
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}  # fmt: skip

COUNT = """
import sys
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
client = GcsClient(address=sys.argv[1])
alive = client.get_all_node_info(state_filter=GcsNodeInfo.GcsNodeState.ALIVE).values()
print(sum(node.resources_total.get("CPU", 0) > 0 for node in alive))
"""


@pytest.fixture
def head(project: Project, database_url: str) -> Iterator[str]:
    """The address of a cluster that begins with its head alone."""
    config = project.folder / "autoscaler.json"
    port = free_port()
    provider = {
        "type": "fake_multinode", "gcs_address": f"{own_address()}:{port}",
        "use_node_id_as_ip": True, "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }  # fmt: skip
    config.write_text(json.dumps(CONFIG | {"provider": provider}))
    project.env |= {"HPO_STORAGE": database_url}
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    words = f"--autoscaling-config={config}"
    with ray_head(project, words, cpus=0, env=fake, port=port) as address:
        yield address


def nodes_with_room(project: Project, address: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, address], env=project.env, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_workers_make_the_cluster_grow_and_it_shrinks_afterwards(
    project: Project, head: str
) -> None:
    """Two workers wait, two nodes come, the study ends on them, and they are given back."""
    (project.folder / "hpo.yaml").write_text(STUDY)
    project.run("create-study")
    assert nodes_with_room(project, head) == 0
    launched = project.start("launch", "--workers", "2", "--address", head)
    try:
        wait_for(lambda: nodes_with_room(project, head) == 2, "two nodes")
        assert launched.wait(timeout=200) == 0, project.logs()
    finally:
        launched.kill()
        launched.wait()
    status = project.json("status")
    assert (status["state"], status["counts"]["complete"]) == ("finished", 4)
    assert {trial["takeovers"] for trial in project.json("trials")} == {0}
    wait_for(lambda: nodes_with_room(project, head) == 0, "the nodes are given back", 120)
