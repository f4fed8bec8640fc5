"""Run one worker in a Ray actor, which leaves in order when it, or its node, is taken away.

An actor's arguments are plain values: a study's name, folders and limits, never a database address.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from workers.ray_launcher.node_probe import require_fit
from workers.ray_launcher.preemption import NodeWatch
from workers.shutdown import GRACE_S
from workers.worker import STALL_TIMEOUT_S, Worker

if TYPE_CHECKING:
    from types import FrameType

    from workers.ray_launcher.node_settings import NodeSettings
    from workers.study_loop import Limits, WorkerSummary


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to launch.

    Attributes:
        study: its name.
        workers: number of actors.
        limits: of each worker.
        cpus: of each worker, fractions allowed.
        gpus: of each worker, fractions allowed; 0 trains on the CPU.
        grace_s: seconds that an epoch may take after a worker was asked to leave.
        stall_timeout_s: longest silence of a training; None for no limit.
    """

    study: str
    workers: int
    limits: Limits
    cpus: float
    gpus: float
    grace_s: float = GRACE_S
    stall_timeout_s: float | None = STALL_TIMEOUT_S


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an actor runs.

    Attributes:
        node: Ray's identity of the node.
        host: its name.
        address: its address in the cluster.
        pid: of the actor.
        gpus: the GPUs that Ray reserved, by their ids there; a shared one is named by each sharer.
    """

    node: str
    host: str
    address: str
    pid: int
    gpus: tuple[str, ...]


class RayWorker:
    """One worker in an actor: `run` in one thread, `drain` and `where` in another.

    It drains when the driver asks, when its process gets SIGTERM, and when Ray drains its node.
    """

    def __init__(self, plan: Plan, node_settings: NodeSettings) -> None:
        self._plan, self._node_settings = plan, node_settings
        self._worker: Worker | None = None
        self._within_s: float | None = None  # asked to leave, within so many seconds
        # Ray calls this, and only this, on the main thread, where alone a handler can be set. Its
        # own handler ends the process in mid-epoch.
        self._ends = signal.signal(signal.SIGTERM, self._hear)

    def run(self, slot: str, limits: Limits) -> WorkerSummary:
        """Serve the study.

        Raises:
            NodesError: this node cannot run workers.
            HpoError: as `Worker.run`.
        """
        plan = self._plan
        if not self._node_settings.private:
            require_fit(self._node_settings, gpus=plan.gpus > 0)
        device = "cuda" if plan.gpus else "cpu"  # num_gpus=0 no longer hides a GPU
        worker = Worker(
            self._node_settings.here(), plan.study, limits=limits, device=device, slot=slot,
            grace_s=plan.grace_s, stall_timeout_s=plan.stall_timeout_s,
        )  # fmt: skip
        self._worker = worker
        if self._within_s is not None:
            worker.drain(self._within_s)
        try:
            with NodeWatch(self.drain):
                return worker.run()
        finally:
            self._worker = None

    def drain(self, within_s: float = math.inf) -> None:
        """Leave at the end of the present epoch, or when the grace or `within_s` is over."""
        self._within_s = within_s
        worker = self._worker
        if worker is not None:
            worker.drain(within_s)

    def where(self) -> Placement:
        """Answer: this actor has found a place and runs."""
        node = ray.get_runtime_context().get_node_id()
        gpus = tuple(str(one) for one in ray.get_gpu_ids())
        return Placement(
            node=node,
            host=socket.gethostname(),
            address=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            gpus=gpus,
        )

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._worker is not None:
            # In a thread: this one may hold what an event's setting waits for
            threading.Thread(target=self.drain, daemon=True).start()
        elif callable(self._ends):
            self._ends(number, frame)
