"""The nodes of the connected cluster: which have room for a worker, and which cannot run one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import hpo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from workers.ray_launcher.actor import Plan
    from workers.ray_launcher.base import Base

LOOK_S = 30.0  # for every node's answer: one that has just started imports for some seconds


@dataclass(frozen=True)
class Node:
    """A living node of the cluster.

    Attributes:
        identity: Ray's own name for it.
        address: its address in the cluster.
        host: its machine's name.
        cpus: cores that it gives to the cluster, busy ones included.
        gpus: the same of GPUs.
    """

    identity: str
    address: str
    host: str
    cpus: float
    gpus: float

    def fits(self, plan: Plan) -> bool:
        """Whether one worker has room there when nothing else runs."""
        return self.cpus >= plan.cpus and self.gpus >= plan.gpus

    @property
    def name(self) -> str:
        """How a person knows it."""
        return self.address if self.host in ("", self.address) else f"{self.address} ({self.host})"


def nodes() -> list[Node]:
    """Those that live now."""
    found = [_node(node) for node in ray.nodes() if node["Alive"]]
    return sorted(found, key=lambda node: node.address)


def _node(node: dict[str, Any]) -> Node:
    has = node["Resources"]
    return Node(
        node["NodeID"], node["NodeManagerAddress"], node["NodeManagerHostname"],
        float(has.get("CPU", 0.0)), float(has.get("GPU", 0.0)),
    )  # fmt: skip


def faults_of(looked_at: Sequence[Node], base: Base, *, gpus: bool) -> dict[str, str]:
    """What each of these nodes lacks, in words; a node that lacks nothing is not in it.

    One that does not answer in time is not in it either: it may only be busy.
    """
    asker = ray.remote(num_cpus=0, max_retries=0)(_asker(hpo.__version__))
    asked = {
        asker.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.identity, soft=False)
        ).remote(asdict(base), gpus): node
        for node in looked_at
    }
    answered, _ = (
        ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S) if asked else ([], [])
    )
    faults = {}
    for reference in answered:
        try:
            fault = ray.get(reference, timeout=LOOK_S)
        except GetTimeoutError:
            continue
        except RayError as error:  # the node has gone meanwhile, or cannot start a process
            fault = str(error).strip().partition("\n")[0]
        if fault:
            faults[asked[reference].identity] = f"{asked[reference].name}: {fault}"
    return faults


def _asker(version: str) -> Callable[[dict[str, Any], bool], str | None]:
    """A function that travels whole: a node without this package must be able to answer, too."""

    def ask(base: dict[str, Any], gpus: bool) -> str | None:
        import sys

        try:
            import hpo

            if hpo.__version__ != version:
                return (
                    f"it has hpo-service {hpo.__version__}, the launching machine {version}. "
                    "Install the same one on all nodes"
                )
            from workers.ray_launcher.fitness import fault_here
        except ImportError as error:
            return (
                f"{sys.executable} has no hpo-service {version} ({error}). Install it there, or "
                "start Ray there from the environment that has it"
            )
        return fault_here(base, gpus=gpus)

    return ask


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
