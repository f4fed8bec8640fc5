"""Workers as Ray actors, on a private local Ray or an existing cluster; only this imports ray.

What an actor is told travels as plain arguments: a study's name, folders and limits, never a
database address. A node of a cluster reads HPO_STORAGE from its own environment.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from hpo.errors import ClusterError, HpoError, UsageError
from hpo.settings import Settings
from workers.worker import Limits, Summary, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

RESTARTS = 10  # of one actor; a machine that kills it again and again is not worth more
_CONNECT_S = 5.0


@dataclass(frozen=True)
class Plan:
    """What to launch.

    Attributes:
        study: its name.
        workers: number of actors.
        limits: of each worker.
        cpus: of each worker, fractions allowed.
        gpus: of each worker, fractions allowed; 0 trains on the CPU.
    """

    study: str
    workers: int
    limits: Limits
    cpus: float
    gpus: float


class RayWorker:
    """One worker in an actor: `run` in one thread, `drain` in another."""

    def __init__(self, plan: Plan, folders: dict[str, str], *, external: bool) -> None:
        self._plan, self._folders, self._external = plan, folders, external
        self._worker: Worker | None = None
        self._drained = False

    def run(self, slot: str) -> Summary:
        """Serve the study; after a restart of the actor Ray calls it again.

        Raises:
            HpoError: as `Worker.run`.
        """
        settings = _settings_here(self._folders, external=self._external)
        device = "cuda" if self._plan.gpus else "cpu"  # num_gpus=0 no longer hides a GPU
        self._worker = Worker(
            settings, self._plan.study, limits=self._plan.limits, device=device, slot=slot
        )
        if self._drained:
            self._worker.drain()
        return self._worker.run()

    def drain(self) -> None:
        """Leave at the end of the present epoch."""
        self._drained = True
        if self._worker is not None:
            self._worker.drain()


def _settings_here(folders: dict[str, str], *, external: bool) -> Settings:
    settings = Settings.read()
    if external and settings.storage is None:
        raise UsageError(
            f"the node {socket.gethostname()} has no HPO_STORAGE in its environment",
            hint="Set it where Ray is started on that node: `HPO_STORAGE=… ray start …`.",
        )
    return replace(
        settings,
        home=Path(folders["home"]),
        artifacts=folders["artifacts"],
        lease_s=float(folders["lease_s"]),
        tracking_uri=settings.tracking_uri or folders["tracking_uri"] or None,
    )


class Launch:
    """Running actors of one plan."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        _refuse_far_nodes(settings)
        tracking = settings.tracking_uri or ""
        folders = {
            "home": str(settings.home),
            "artifacts": settings.artifacts,
            "lease_s": str(settings.lease_s),
            # A URL with a password in it is not handed on; the nodes know their own.
            "tracking_uri": "" if "@" in tracking else tracking,
        }
        kind = ray.remote(
            num_cpus=plan.cpus,
            num_gpus=plan.gpus,
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
            max_concurrency=2,
        )(RayWorker)
        self._actors = [
            kind.remote(plan, folders, external=settings.storage is not None)
            for _ in range(plan.workers)
        ]
        # The slot outlives a restart of its actor: --n-trials counts across it.
        self._left = {actor.run.remote(uuid.uuid4().hex): actor for actor in self._actors}
        self.summaries: list[Summary] = []
        self.errors: list[HpoError] = []

    def wait(self, seconds: float) -> bool:
        """Wait for workers to end, at most so long; True when all have."""
        if not self._left:
            return True
        done, _ = ray.wait(list(self._left), num_returns=len(self._left), timeout=seconds)
        for reference in done:
            del self._left[reference]
            try:
                self.summaries.append(ray.get(reference))
            except RayTaskError as error:
                self.errors.append(_meaning(error))
            except RayActorError as error:
                text = str(error).strip().splitlines()[0]
                self.errors.append(ClusterError(f"a worker died {RESTARTS + 1} times: {text}"))
        return not self._left

    def drain(self) -> None:
        """Let every worker leave at the end of its epoch."""
        for actor in self._left.values():
            actor.drain.remote()


def _meaning(error: RayTaskError) -> HpoError:
    cause = error.cause
    if isinstance(cause, HpoError):
        return cause
    if isinstance(cause, OSError):
        return HpoError(f"a worker failed: {cause}", hint="Check HPO_HOME and HPO_ARTIFACTS there.")
    return ClusterError(f"a worker failed: {type(cause).__name__}: {cause}")


def _refuse_far_nodes(settings: Settings) -> None:
    if settings.storage is not None:
        return
    here = ray.util.get_node_ip_address()
    far = [
        node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeManagerAddress"] != here
    ]
    if far:
        raise UsageError(
            f"the cluster has nodes elsewhere ({', '.join(far)}), which cannot reach this "
            "machine's private PostgreSQL",
            hint="Set HPO_STORAGE to a PostgreSQL that all nodes reach, and HPO_ARTIFACTS to a "
            "folder that they share.",
        )


@contextmanager
def cluster(address: str | None, plan: Plan) -> Iterator[None]:
    """A connection to the cluster at `address`, or to a private local Ray, left at the end.

    Raises:
        ClusterError: it cannot be reached or started.
    """
    cores = os.cpu_count() or 1
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address:
        _require_reachable(address)
        options |= {"address": address}
    else:
        # Asked for more workers than cores, they share them rather than wait for ever.
        options |= {
            "address": "local",
            "num_cpus": max(cores, round(plan.workers * plan.cpus + 0.5)),
            "include_dashboard": False,
        }
    # That its token authentication is on is as it should be, and no warning.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(
        logging.ERROR
    )
    try:
        ray.init(**options)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        where = address or "a private local Ray"
        raise ClusterError(
            f"cannot start on {where}: {str(error).strip().splitlines()[0]}",
            hint="`ray status` shows a cluster's state; without --address a private one is used.",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Ray itself tries for a minute and then aborts the process."""
    plain = address.removeprefix("ray://")
    host, _, port = plain.rpartition(":")
    if address in ("auto", "local") or not host:
        return
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_S):
            pass
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {error}",
            hint="Start one with `ray start --head`, or leave --address and RAY_ADDRESS out for a "
            "private one.",
        ) from error


def gpus_of_cluster() -> float:
    """Number of GPUs that the connected cluster has."""
    return float(ray.cluster_resources().get("GPU", 0.0))
