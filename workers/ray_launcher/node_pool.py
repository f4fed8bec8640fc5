"""Keep the nodes that a launch may use: probe them before it starts, leave out unfit ones."""

from __future__ import annotations

import secrets
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from hpo.errors import NodesError, StoreError, UsageError
from hpo.host.log import action_logger
from hpo.storage.artifacts.opening import open_store
from workers.ray_launcher.nodes import Inquiry, Node, fault_in, no_room, nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.settings import Settings
    from workers.ray_launcher.actor import Plan
    from workers.ray_launcher.node_settings import NodeSettings

log = action_logger(__name__)

AGAIN_S = 12.0  # between two looks at a node that was unfit


@dataclass(kw_only=True)
class NodePool:
    """Where the workers of one launch may go; nodes that come later may be used, too.

    Attributes:
        plan: what a worker needs.
        node_settings: what the nodes are told.
        out: identity of a node that is left out -> why.
        news: what a person should hear of the first look.
    """

    plan: Plan
    node_settings: NodeSettings
    out: dict[str, str] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)
    _mendable: set[str] = field(default_factory=set)  # of those left out: looked at again
    _asked: dict[Any, Node] = field(default_factory=dict)  # answer to come -> whose
    _again_at: float = 0.0

    def __post_init__(self) -> None:
        self._inquiry = Inquiry(self.node_settings, gpus=self.plan.gpus > 0)

    def look(self) -> None:
        """Look at every node that has room for a worker.

        Raises:
            NodesError: none of them can run one, and why.
        """
        if self.node_settings.private:
            return
        there = nodes()
        found = self._inquiry.faults_of(self._in_use())
        faults = [fault.text for fault in found.values()]
        self._unfit({identity: fault.text for identity, fault in found.items()})
        if faults and not self.usable():
            count = len(self.out)
            raise NodesError(
                "the cluster's node cannot run workers" if count == 1
                else f"none of the cluster's {count} nodes can run workers",
                faults, passing=all(fault.passing for fault in found.values()),
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
        found = self._inquiry.faults_of(self._in_use())
        self._unfit({identity: fault.text for identity, fault in found.items()})
        return [fault.text for fault in found.values()]

    def leave_out(self, identity: str, why: str) -> bool:
        """Use the node no more; False, and it stays in use, where no other could take over."""
        if any(node.identity != identity for node in self._in_use()):
            self.out[identity] = why
            return True
        return False

    def leave_out_unfit(self, identity: str, error: NodesError) -> bool:
        """Use the node no more until it is found fit; False where no other could take over.

        Of a fault that may pass by itself no other is needed: the workers wait.
        """
        (why,) = error.faults
        if not error.passing and not self.leave_out(identity, why):
            return False
        self._unfit({identity: why})
        return True

    def lost(self, identity: str) -> bool:
        """Whether the node is gone; it is then left out, and in use again should it come back."""
        node = next((node for node in nodes() if node.identity == identity), None)
        if node is not None and node.answers():
            return False
        self._unfit({identity: "it is lost"})
        return True

    def mended(self) -> list[str]:
        """Names of nodes that were unfit and no longer are; they are in use again.

        Asks the unfit ones from time to time, and waits for no answer.
        """
        if self._mendable and time.monotonic() >= self._again_at:
            self._again_at = time.monotonic() + AGAIN_S
            self._ask_again()
        asked = list(self._asked)
        answered = ray.wait(asked, num_returns=len(asked), timeout=0)[0] if asked else []
        names = []
        for answer in answered:
            node = self._asked.pop(answer)
            fault = fault_in(answer, node)
            if node.identity not in self._mendable:
                continue
            if fault is not None:
                self.out[node.identity] = fault.text
                continue
            del self.out[node.identity]
            self._mendable.remove(node.identity)
            names.append(node.name)
        return names

    def _ask_again(self) -> None:
        there = nodes()
        self._mendable &= {node.identity for node in there}
        waited_for = {node.identity for node in self._asked.values()}
        for node in there:
            if node.identity in self._mendable - waited_for:
                self._asked[self._inquiry.ask(node)] = node

    def _unfit(self, why: dict[str, str]) -> None:
        if why and not self._mendable:
            self._again_at = time.monotonic() + AGAIN_S
        self.out |= why
        self._mendable |= why.keys()

    def usable(self) -> bool:
        """Whether some node can run a worker now, or could when its others leave."""
        return bool(self._in_use())

    def options(self) -> dict[str, Any]:
        """What Ray is told of it when it starts an actor."""
        out = sorted(node.identity for node in nodes() if node.identity in self.out)
        return {"label_selector": {"ray.io/node-id": f"!in({','.join(out)})"}} if out else {}

    def why_waiting(self) -> str:
        """Why a worker has no place yet, in words."""
        if self._mendable and not self.usable():
            return f"no node can run workers now; each is looked at again every {AGAIN_S:g} s"
        return no_room(self.plan, nodes()) or (
            "the nodes that fit are full or still starting; room that comes is taken at once"
        )

    def _in_use(self) -> list[Node]:
        return [node for node in nodes() if node.fits(self.plan) and node.identity not in self.out]


@contextmanager
def with_store_probe(node_settings: NodeSettings, settings: Settings) -> Iterator[NodeSettings]:
    """The settings with a file in the store, by which nodes see that theirs is the same one.

    Raises:
        UsageError: the store cannot be used as it is named.
        StoreError: it cannot be reached.
    """
    if node_settings.private:
        yield node_settings
        return
    store = open_store(settings)
    store.require_writable(make=False)
    token = secrets.token_hex(16)
    area = f"launch-{token}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "store-probe"
        file.write_text(token)
        stored = store.put(file, area)
    try:
        yield replace(node_settings, store_probe=stored.sha256, store_probe_area=area)
    finally:
        try:
            store.keep_only(area, ())
        except StoreError as error:  # some bytes stay; the launch has ended as it has
            log.warning(
                "%s/%s was not removed: %s",
                store.place,
                area,
                error,
                action="store_probe_not_removed",
                study=node_settings.study,
            )


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
