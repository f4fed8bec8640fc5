"""The nodes of the connected cluster, and which have room for a worker."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.ray_launcher.actor import Plan

ANSWER_S = 1.0  # a living node's own process takes a connection in milliseconds


@dataclass(frozen=True)
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
    """Those that live now."""
    found = [_node(node) for node in ray.nodes() if node["Alive"]]
    return sorted(found, key=lambda node: node.address)


def _node(node: dict[str, Any]) -> Node:
    has = node["Resources"]
    return Node(
        node["NodeID"], node["NodeManagerAddress"], node["NodeManagerHostname"],
        float(has.get("CPU", 0.0)), float(has.get("GPU", 0.0)),
        int(node["NodeManagerPort"]),
    )  # fmt: skip


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
