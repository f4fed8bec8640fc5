"""Machines that are taken away under `hpo launch`: told before, lost at once, or told to leave."""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from sqlalchemy import create_engine, text
from support.command_line import Project, project_in, wait_for
from support.postgres import database_of
from support.ray_nodes import Autoscaler, Node, ray_head, ray_node

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

pytestmark = pytest.mark.cluster  # nodes of Ray are started and taken away

STUDY = """
trainer: simulated
search_space: simulated
budget: {trials: 2, epochs: 12}
pruner: none
train: {epoch_s: 0.4}
"""


class Cluster:
    """A head without room for workers, and as many nodes with room for one each as are wanted."""

    def __init__(self, project: Project, address: str, engine: Engine, stack: ExitStack) -> None:
        self.project, self.address = project, address
        self.autoscaler = Autoscaler(project, address)
        stack.callback(self.autoscaler.close)
        self._engine, self._stack = engine, stack
        self._numbers = itertools.count(1)
        self._nodes: list[Node] = []

    def nodes(self, count: int) -> list[Node]:
        """So many nodes, those of an earlier test among them where they still stand."""
        self._nodes = [node for node in self._nodes if node.raylet is not None]
        # One after the other: of two that start at once on one machine, one may fail to
        while len(self._nodes) < count:
            where = (
                f"--address={self.address}",
                f"--node-ip-address=127.0.1.{next(self._numbers)}",
            )
            self._nodes.append(self._stack.enter_context(ray_node(self.project, *where, cpus=1)))
        return self._nodes

    def launch(self, study: str, workers: int, *, epoch_s: float = 0.4) -> subprocess.Popen[bytes]:
        """Make the study and start workers on it."""
        file = self.project.folder / f"{study}.yaml"
        file.write_text(f"study: {study}\n{STUDY}")
        self.project.run("create-study", str(file), "--set", f"train.epoch_s={epoch_s}")
        words = ("launch", "--study", study, "--workers", str(workers), "--address", self.address)
        return self.project.start(*words)

    def busy(self, study: str, workers: int) -> list[int]:
        """The workers' process ids, once so many of them have a checkpoint."""
        query = text(
            "select distinct w.pid from hpo.lease l join hpo.worker w using (worker_id)"
            "  join hpo.checkpoint c using (trial_id) join studies s on s.study_id = w.study_id"
            " where s.study_name = :study and l.told_at is null"
        )

        def found() -> list[int] | None:
            with self._engine.connect() as connection:
                pids = [int(row.pid) for row in connection.execute(query, {"study": study})]
            return pids if len(pids) == workers else None

        pids: list[int] = wait_for(found, f"{workers} workers in their trials")
        return pids

    def attempts(self, study: str) -> list[Any]:
        """(trial, attempt, ended, resumed_epoch) of every claim, in order."""
        with self._engine.connect() as connection:
            query = text(
                "select t.number as trial, a.attempt, a.ended, a.resumed_epoch"
                "  from hpo.attempt a join trials t using (trial_id) join studies s"
                "    on s.study_id = t.study_id where s.study_name = :study order by 1, 2"
            )
            return list(connection.execute(query, {"study": study}))


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, template_database: str
) -> Iterator[Cluster]:
    """One for all tests here: Ray takes seconds to start."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        url = stack.enter_context(database_of(postgres_url, template_database))
        project = stack.enter_context(project_in(folder))
        project.env |= {"HPO_STORAGE": url}
        engine = create_engine(url)
        stack.callback(engine.dispose)
        address = stack.enter_context(ray_head(project, cpus=0))
        yield Cluster(project, address, engine, stack)


def with_children(pids: list[int]) -> list[psutil.Process]:
    """These processes and all that they started."""
    first = [psutil.Process(pid) for pid in pids]
    return first + [child for one in first for child in one.children(recursive=True)]


def assert_finished(cluster: Cluster, study: str, launched: subprocess.Popen[bytes]) -> None:
    assert launched.wait(timeout=120) == 0, cluster.project.logs()
    status = cluster.project.json("status", "--study", study)
    assert (status["state"], status["budget"]["claimed"]) == ("finished", 2)
    assert status["counts"]["complete"] == 2


def test_a_drained_node_s_worker_goes_on_elsewhere(cluster: Cluster) -> None:
    """Its trial is given back, continued from its last checkpoint, and the node is let go."""
    cluster.project.env |= {"HPO_LEASE_S": "60"}  # far longer than the test: no expiry helps
    nodes = cluster.nodes(2)
    launched = cluster.launch("drained", 1)
    try:
        (worker,) = cluster.busy("drained", 1)
        (old,) = [node for node in nodes if node.trains(worker)]
        cluster.autoscaler.drain(old)
        assert_finished(cluster, "drained", launched)
    finally:
        launched.kill()
        launched.wait()
    attempts = cluster.attempts("drained")
    assert [row.ended for row in attempts].count("released") == 1
    assert {row.ended for row in attempts} == {"released", "told"}
    (again,) = [row for row in attempts if row.attempt == 2]
    assert again.resumed_epoch >= 1
    wait_for(lambda: old.raylet is None, "the drained node has left", 60)


def test_the_others_end_the_study_of_a_node_that_is_told_to_end(cluster: Cluster) -> None:
    """SIGTERM to `ray start`: the trial is given back, and nobody waits for a place for ever."""
    cluster.project.env |= {"HPO_LEASE_S": "60"}
    old = cluster.nodes(2)[0]
    launched = cluster.launch("ended", 2)
    try:
        assert any(old.trains(worker) for worker in cluster.busy("ended", 2))
        old.end()
        assert_finished(cluster, "ended", launched)
    finally:
        launched.kill()
        launched.wait()
    attempts = cluster.attempts("ended")
    assert [row.ended for row in attempts].count("released") == 1
    assert {row.ended for row in attempts} == {"released", "told"}
    wait_for(lambda: not old.family(), "the node's processes are gone", 60)


def test_a_lost_node_costs_no_trial(cluster: Cluster) -> None:
    """All its processes are gone at once: the trial is taken over, the budget is exact."""
    cluster.project.env |= {"HPO_LEASE_S": "4"}
    lost = cluster.nodes(2)[0]
    launched = cluster.launch("lost", 2)
    try:
        assert any(lost.trains(worker) for worker in cluster.busy("lost", 2))
        lost.lose()
        assert_finished(cluster, "lost", launched)
    finally:
        launched.kill()
        launched.wait()
    attempts = cluster.attempts("lost")
    assert [row.ended for row in attempts].count("silent") == 1
    (again,) = [row for row in attempts if row.attempt == 2]
    assert again.resumed_epoch >= 1


def test_a_second_signal_leaves_nothing_on_the_cluster(cluster: Cluster) -> None:
    """Actors and training processes are gone with the launcher, in mid-epoch."""
    cluster.nodes(1)
    launched = cluster.launch("left", 1, epoch_s=1.0)
    try:
        started = with_children(cluster.busy("left", 1))
        assert len(started) >= 2
        os.kill(launched.pid, SIGINT)
        wait_for(lambda: "again to leave now" in cluster.project.logs(), "the first is heard")
        os.kill(launched.pid, SIGTERM)
        assert launched.wait(timeout=60) == 130, cluster.project.logs()
    finally:
        launched.kill()
        launched.wait()
    assert psutil.wait_procs(started, timeout=20)[1] == []
