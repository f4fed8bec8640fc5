"""A cluster of Ray nodes with addresses and folders of their own, and what PostgreSQL saw of it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import sysconfig
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, text
from support.command_line import wait_for
from support.ray_nodes import Node, ray_head, ray_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.command_line import Project

_ADDRESSES = itertools.count(1)


class RayCluster:
    """A head without room for workers, and nodes that are added one by one."""

    def __init__(self, project: Project, address: str, engine: Engine, stack: ExitStack) -> None:
        self.project, self.address = project, address
        self._engine, self._stack = engine, stack

    def add(
        self,
        *words: str,
        cpus: int = 1,
        ray: tuple[str, ...] | None = None,
        **changes: str | None,
    ) -> Node:
        """Start a node, with a HPO_HOME of its own unless `changes` of its environment say else."""
        number = next(_ADDRESSES)
        home = self.project.folder / f"node-{number}"
        home.mkdir()
        env = {**self.project.env, "HPO_HOME": str(home), **changes}
        given = {name: value for name, value in env.items() if value is not None}
        address = f"127.0.3.{number}"
        node: Node = self._stack.enter_context(
            ray_node(
                self.project, f"--address={self.address}", f"--node-ip-address={address}", *words,
                cpus=cpus, env=given, **({"ray": ray} if ray else {}),
            )
        )  # fmt: skip
        node.address, node.home = address, home
        return node

    def claims(self, study: str) -> list[Any]:
        """(trial, attempt, ended, resumed_epoch, pid) of every claim of a study, in order."""
        query = text(
            "select t.number as trial, a.attempt, a.ended, a.resumed_epoch, w.pid"
            "  from hpo.attempt a join trials t using (trial_id)"
            "  join studies s on s.study_id = t.study_id join hpo.worker w using (worker_id)"
            " where s.study_name = :study order by 1, 2"
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query, {"study": study}))

    def busy(self, study: str, workers: int) -> set[int]:
        """The workers' process ids, once so many hold trials that have a checkpoint."""
        query = text(
            "select distinct w.pid from hpo.lease l join hpo.worker w using (worker_id)"
            "  join hpo.checkpoint c using (trial_id) join studies s on s.study_id = w.study_id"
            " where s.study_name = :study and l.told_at is null"
        )

        def found() -> set[int] | None:
            with self._engine.connect() as connection:
                pids = {int(row.pid) for row in connection.execute(query, {"study": study})}
            return pids if len(pids) >= workers else None

        pids: set[int] = wait_for(found, f"{workers} workers in their trials")
        return pids


@contextmanager
def ray_cluster(project: Project, url: str, *words: str) -> Iterator[RayCluster]:
    """A head with token authentication on, no room, and a PostgreSQL that all nodes reach."""
    with ExitStack() as stack:
        project.env |= {"HPO_STORAGE": url}
        engine = create_engine(url)
        stack.callback(engine.dispose)
        address = stack.enter_context(ray_head(project, *words, cpus=0))
        yield RayCluster(project, address, engine, stack)


def without_this_package(folder: Path) -> tuple[str, ...]:
    """`ray` in an environment that has all that this one has, but for this package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (there,) = (folder / "lib").glob("python*/site-packages")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "hpo" not in entry.name:
            (there / entry.name).symlink_to(entry)
    program = "from ray.scripts.scripts import main; main()"
    return (str(folder / "bin" / "python"), "-c", program)
