"""List the nodes of the connected cluster, with the room they have and what they lack."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import hpo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from workers.ray_launcher.actor import Plan
    from workers.ray_launcher.node_settings import NodeSettings

ANSWER_S = 1.0  # a living node's own process takes a connection in milliseconds


@dataclass(frozen=True, kw_only=True)
class Node:
    """A living node of the cluster.

    Attributes:
        identity: Ray's own name for it.
        address: its address in the cluster.
        host: its machine's name.
        cpus: cores that it gives to the cluster, busy ones included.
        gpus: the same of GPUs.
        port: at which its own process of Ray's listens.
    """

    identity: str
    address: str
    host: str
    cpus: float
    gpus: float
    port: int

    def fits(self, plan: Plan) -> bool:
        """Whether one worker has room there when nothing else runs."""
        return self.cpus >= plan.cpus and self.gpus >= plan.gpus

    @property
    def name(self) -> str:
        """How a person knows it."""
        return self.address if self.host in ("", self.address) else f"{self.address} ({self.host})"

    def answers(self) -> bool:
        """Whether it still listens; Ray calls a lost node alive for up to half a minute."""
        try:
            socket.create_connection((self.address, self.port), ANSWER_S).close()
        except OSError:
            return False
        return True


def nodes() -> list[Node]:
    """The nodes of the cluster that live now."""
    found = [_node(node) for node in ray.nodes() if node["Alive"]]
    return sorted(found, key=lambda node: node.address)


def _node(node: dict[str, Any]) -> Node:
    has = node["Resources"]
    return Node(
        identity=node["NodeID"],
        address=node["NodeManagerAddress"],
        host=node["NodeManagerHostname"],
        cpus=float(has.get("CPU", 0.0)),
        gpus=float(has.get("GPU", 0.0)),
        port=int(node["NodeManagerPort"]),
    )


def no_room(plan: Plan, there: Iterable[Node]) -> str | None:
    """Why no node of these can ever run a worker; None where one can."""
    there = list(there)
    if any(node.fits(plan) for node in there):
        return None
    wanted = f"{plan.cpus:g} CPU" + (f" and {plan.gpus:g} GPU" if plan.gpus else "")
    has = ", ".join(f"{node.address}: {node.cpus:g} CPU, {node.gpus:g} GPU" for node in there)
    return (
        f"no node has room for a worker of {wanted} ({has or 'there is no node'}): the workers "
        "wait until one joins or the cluster grows; if it cannot, ask for less with "
        "--cpus-per-worker and --gpus-per-worker"
    )


LOOK_S = 30.0  # for every node's answer: one that has just started imports for some seconds


@dataclass(frozen=True)
class Fault:
    """Why a node cannot run workers.

    Attributes:
        text: by the node's name, in words.
        passing: whether it is a service that could not be reached.
    """

    text: str
    passing: bool = False


class Inquiry:
    """One question to nodes: whether they can run the workers of a launch."""

    def __init__(self, node_settings: NodeSettings, *, gpus: bool) -> None:
        self._told = (asdict(node_settings), gpus)
        self._asker = ray.remote(num_cpus=0, max_retries=0)(_asker(hpo.__version__))

    def ask(self, node: Node) -> Any:
        """Ask a node; the reference of its answer, for `fault_in`."""
        there = NodeAffinitySchedulingStrategy(node.identity, soft=False)
        return self._asker.options(scheduling_strategy=there).remote(*self._told)

    def faults_of(self, nodes: Sequence[Node]) -> dict[str, Fault]:
        """What each of these nodes lacks, by identity; one that lacks nothing is not in it.

        One that does not answer in time is not in it either: it may only be busy.
        """
        asked = {self.ask(node): node for node in nodes}
        answered, _ = (
            ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S) if asked else ([], [])
        )
        found = {asked[one].identity: fault_in(one, asked[one]) for one in answered}
        return {identity: fault for identity, fault in found.items() if fault is not None}


def fault_in(answer: Any, node: Node) -> Fault | None:
    """What a node that has answered lacks; None where it can run workers."""
    try:
        found: tuple[str, bool] | None = ray.get(answer)
    except RayError as error:  # the node has gone meanwhile, or cannot start a process
        found = (str(error).strip().partition("\n")[0], False)
    return None if found is None else Fault(f"{node.name}: {found[0]}", found[1])


def _asker(version: str) -> Callable[[dict[str, Any], bool], tuple[str, bool] | None]:
    """A function that travels whole: a node without this package must be able to answer, too."""

    def ask(node_settings: dict[str, Any], gpus: bool) -> tuple[str, bool] | None:
        import sys

        try:
            import hpo

            if hpo.__version__ != version:
                return (
                    f"it has hpo-service {hpo.__version__}, the launching machine {version}. "
                    "Install the same one on all nodes"
                ), False
            from workers.ray_launcher.node_probe import fault_here
        except ImportError as error:
            return (
                f"{sys.executable} has no hpo-service {version} ({error}). Install it there, or "
                "start Ray there from the environment that has it"
            ), False
        return fault_here(node_settings, gpus=gpus)

    return ask
