"""One worker in a Ray actor, which leaves in order when it, or its node, is taken away.

What an actor is told travels as plain arguments: a study's name, folders and limits, never a
database address. A node of a cluster reads HPO_STORAGE from its own environment.
"""

from __future__ import annotations

import math
import signal
import socket
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import UsageError
from hpo.settings import Settings
from workers.drain import GRACE_S
from workers.ray_launcher.node import NodeWatch
from workers.worker import STALL_TIMEOUT_S, Worker

if TYPE_CHECKING:
    from types import FrameType

    from workers.shift import Limits, Summary


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Base:
    """What the driver's settings say to the nodes; holds no password.

    Attributes:
        home: folder of the project's state, the same path on every node.
        artifacts: where weights, pictures and checkpoints go.
        tracking_uri: MLflow, for nodes that name none; "" for the default.
        lease_s: seconds a lease lasts without renewal.
        checkpoint_every: epochs between two checkpoints; 0 makes none.
        external: whether the database is one that HPO_STORAGE names.
    """

    home: str
    artifacts: str
    tracking_uri: str
    lease_s: float
    checkpoint_every: int
    external: bool

    @classmethod
    def of(cls, settings: Settings) -> Base:
        """What may travel of the driver's settings."""
        tracking = settings.tracking_uri or ""
        return cls(
            home=str(settings.home),
            artifacts=settings.artifacts,
            # A URL with a password in it is not handed on; the nodes know their own.
            tracking_uri="" if "@" in tracking else tracking,
            lease_s=settings.lease_s,
            checkpoint_every=settings.checkpoint_every,
            external=settings.storage is not None,
        )

    def here(self) -> Settings:
        """The settings of this node.

        Raises:
            UsageError: the node does not know the database.
        """
        settings = Settings.read()
        if self.external and settings.storage is None:
            raise UsageError(
                f"the node {socket.gethostname()} has no HPO_STORAGE in its environment",
                hint="Set it where Ray is started on that node: `HPO_STORAGE=… ray start …`.",
            )
        return replace(
            settings,
            home=Path(self.home),
            artifacts=self.artifacts,
            lease_s=self.lease_s,
            checkpoint_every=self.checkpoint_every,
            tracking_uri=settings.tracking_uri or self.tracking_uri or None,
        )


class RayWorker:
    """One worker in an actor: `run` in one thread, `drain` and `ping` in another.

    It drains when the driver asks, when its process gets SIGTERM, and when Ray drains its node.
    """

    def __init__(self, plan: Plan, base: Base) -> None:
        self._plan, self._base = plan, base
        self._worker: Worker | None = None
        self._within_s: float | None = None  # asked to leave, within so many seconds
        # Ray calls this, and only this, on the main thread, where alone a handler can be set. Its
        # own handler ends the process in mid-epoch.
        self._ends = signal.signal(signal.SIGTERM, self._hear)

    def run(self, slot: str, limits: Limits) -> Summary:
        """Serve the study.

        Raises:
            HpoError: as `Worker.run`.
        """
        plan = self._plan
        device = "cuda" if plan.gpus else "cpu"  # num_gpus=0 no longer hides a GPU
        worker = Worker(
            self._base.here(), plan.study, limits=limits, device=device, slot=slot,
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

    def ping(self) -> None:
        """Answer: this actor has found a place and runs."""

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._worker is not None:
            # In a thread: this one may hold what an event's setting waits for
            threading.Thread(target=self.drain, daemon=True).start()
        elif callable(self._ends):
            self._ends(number, frame)
