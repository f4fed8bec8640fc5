"""The nodes that a launch may use: looked at before it starts, left out when they prove unfit."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from hpo.errors import NodesError, UsageError
from workers.ray_launcher.room import Node, faults_of, no_room, nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.settings import Settings
    from workers.ray_launcher.actor import Plan
    from workers.ray_launcher.base import Base


@dataclass
class Grounds:
    """Where the workers of one launch may go; nodes that come later may be used, too.

    Attributes:
        plan: what a worker needs.
        base: what the nodes are told.
        out: identity of a node that is left out -> why.
        news: what a person should hear of the first look.
    """

    plan: Plan
    base: Base
    out: dict[str, str] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Look at every node that has room for a worker.

        Raises:
            NodesError: none of them can run one, and why.
        """
        if self.base.private:
            return
        there = nodes()
        faults = self.look_again()
        if faults and not self.usable():
            count = len(self.out)
            raise NodesError(
                "the cluster's node cannot run workers" if count == 1
                else f"none of the cluster's {count} nodes can run workers",
                faults,
            )  # fmt: skip
        self.news += [f"no worker on {fault}" for fault in faults]
        bare = [node.address for node in there if node.cpus >= self.plan.cpus and not node.gpus]
        if self.plan.gpus and bare and len(bare) < len(there):
            self.news.append(
                f"no worker on {', '.join(bare)}, which show no GPU; --gpus-per-worker 0 trains on "
                "their cores"
            )

    def look_again(self) -> list[str]:
        """Leave out what cannot run workers among the nodes still in use; why, node by node."""
        found = faults_of(self._in_use(), self.base, gpus=self.plan.gpus > 0)
        self.out |= found
        return list(found.values())

    def leave_out(self, identity: str, why: str) -> bool:
        """Use the node no more; False, and it stays in use, where no other could take over."""
        if any(node.identity != identity for node in self._in_use()):
            self.out[identity] = why
            return True
        return False

    def usable(self) -> bool:
        """Whether some node can run a worker now, or could when its others leave."""
        return bool(self._in_use())

    def options(self) -> dict[str, Any]:
        """What Ray is told of it when it starts an actor."""
        if not self.out:
            return {}
        return {"label_selector": {"ray.io/node-id": f"!in({','.join(sorted(self.out))})"}}

    def why_waiting(self) -> str:
        """Why a worker has no place yet, in words."""
        return no_room(self.plan, nodes()) or (
            "the nodes that fit are full or still starting; room that comes is taken at once"
        )

    def _in_use(self) -> list[Node]:
        return [node for node in nodes() if node.fits(self.plan) and node.identity not in self.out]


@contextmanager
def witnessed(base: Base) -> Iterator[Base]:
    """The base with a file by which nodes see that HPO_ARTIFACTS is the same folder for all."""
    if base.private or "://" in base.artifacts:
        yield base
        return
    name = f".launch-{secrets.token_hex(8)}"
    file = Path(base.artifacts) / name
    file.touch()
    try:
        yield replace(base, witness=name)
    finally:
        file.unlink(missing_ok=True)


def refuse_far_nodes(settings: Settings) -> None:
    """Refuse nodes on other machines with a database that only this one reaches.

    Raises:
        UsageError: there are some.
    """
    if settings.storage is not None:
        return
    here = ray.util.get_node_ip_address()
    far = [node.address for node in nodes() if node.address != here]
    if far:
        raise UsageError(
            f"the cluster has nodes elsewhere ({', '.join(far)}), which cannot reach this "
            "machine's private PostgreSQL",
            hint="Set HPO_STORAGE to a PostgreSQL that all nodes reach, and HPO_ARTIFACTS to a "
            "bucket, s3://BUCKET/PREFIX, or a folder that they share.",
        )
