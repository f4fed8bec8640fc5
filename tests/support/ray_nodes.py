"""Nodes and whole clusters of Ray on this machine."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import subprocess
import sys
import sysconfig
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from sqlalchemy import Engine, create_engine, text
from support.command_line import free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.command_line import Project


RAY = str(Path(sys.executable).with_name("ray"))
# As README has them
NODE = ("--block", "--disable-usage-stats")
HEAD = ("--head", "--include-dashboard=false")


class Node:
    """One `ray start --block` and all its processes.

    Attributes:
        address: in the cluster, where its starter gave one.
        home: its own HPO_HOME, where it has one.
    """

    address = ""
    home: Path

    def __init__(
        self,
        project: Project,
        *words: str,
        cpus: int = 2,
        env: dict[str, str] | None = None,
        ray: tuple[str, ...] = (RAY,),
    ) -> None:
        self._project = project
        self._log = project.folder / f"ray-{secrets.token_hex(4)}.txt"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [*ray, "start", *NODE, f"--num-cpus={cpus}", *words],
                cwd=project.folder, env=project.env if env is None else env, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait_until_up(self) -> None:
        """Wait until Ray says so."""
        wait_for(lambda: "Ray runtime started" in self._log.read_text(), str(self._log), 120)

    def family(self) -> list[psutil.Process]:
        """`ray start`, all that it started, actors and training processes included."""
        if self._process.poll() is not None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def trains(self, worker_pid: int) -> bool:
        """Whether this worker runs on this node."""
        return worker_pid in {one.pid for one in self.family()}

    @property
    def raylet(self) -> psutil.Process | None:
        """The node's own process of Ray's; None when it has left."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return next((one for one in self.family() if one.name() == "raylet"), None)
        return None

    @property
    def identity(self) -> str:
        """How Ray calls the node."""
        raylet = self.raylet
        assert raylet is not None
        return next(
            word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--node_id=")
        )

    def end(self) -> None:
        """What Kubernetes does with a pod: SIGTERM to `ray start`, and no waiting here."""
        self._process.terminate()

    def lose(self) -> None:
        """What a power cut does: all its processes are gone at once."""
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()

    def close(self) -> None:
        """End it, in order if it can, and wait until all its processes are gone."""
        family = self.family()
        self._process.terminate()
        try:
            self._process.wait(timeout=40)
        finally:
            _, alive = psutil.wait_procs(family, timeout=20)
            for process in alive:
                process.kill()
            self._process.kill()
            self._process.wait()


class Autoscaler:
    """Drains nodes as `ray drain-node` does, without the seconds that a start of `ray` takes."""

    _CODE = """
import sys
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
client, preemption = GcsClient(address=sys.argv[1]), DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
for line in sys.stdin:
    print(*client.drain_node(line.strip(), preemption, "a test", 0), flush=True)
"""

    def __init__(self, project: Project, address: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE, address], env=project.env, cwd=project.folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def drain(self, node: Node) -> None:
        """Take the node's machine away."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{node.identity}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer.startswith("True"), answer

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)


@contextmanager
def ray_node(project: Project, *words: str, cpus: int = 2, **options: Any) -> Iterator[Node]:
    """A node that is up, ended with all its processes.

    Args:
        project: whose folder and environment it starts with.
        words: further arguments of `ray start`.
        cpus: room that it gives to the cluster.
        options: `env`, an environment of its own; `ray`, the command to start it with.
    """
    node = Node(project, *words, cpus=cpus, **options)
    try:
        node.wait_until_up()
        yield node
    finally:
        node.close()


@contextmanager
def ray_head(
    project: Project,
    *words: str,
    cpus: int = 2,
    env: dict[str, str] | None = None,
    port: int | None = None,
) -> Iterator[str]:
    """A cluster of one node, which sees what `project.env` holds then; its address.

    Args:
        project: whose environment it starts with.
        words: further arguments of `ray start`.
        cpus: room that it gives to the cluster.
        env: what it sees besides.
        port: that it answers at; some free one where none is given.
    """
    port = port or free_port()
    project.env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = (*HEAD, f"--port={port}", *words)
    with ray_node(project, *head, cpus=cpus, env=project.env | (env or {})):
        yield f"{own_address()}:{port}"


def own_address() -> str:
    """This machine's address as Ray takes it."""
    import ray.util

    return str(ray.util.get_node_ip_address())


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
