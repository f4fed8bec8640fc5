"""The Ray that workers run on: a private local one, or an existing cluster; knows no worker."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from hpo.errors import ClusterError
from workers.ray_launcher.driver_node import node_for_driver
from workers.ray_launcher.entry import enter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LEAVE_S = 2.0  # for Ray's processes to end by themselves


@contextmanager
def cluster(address: str | None, cpus: float) -> Iterator[None]:
    """A connection to the cluster at `address`, or to a private local Ray, left at the end.

    Args:
        address: of an existing cluster; None starts a private one.
        cpus: cores that all workers together ask for.

    Raises:
        UsageError: an address that is none.
        ClusterError: it cannot be reached or started.
    """
    # That its token authentication is on is as it should be, and no warning.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(
        logging.ERROR
    )
    if address:
        where = enter(address)
        with node_for_driver(where), _connected(where, {"address": where}):
            yield
        return
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Else Ray writes one into ~/.ray, which every user of this machine may read. It keeps the
        # first one that it saw, so this stays.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    cores = os.cpu_count() or 1
    options = {
        "address": "local",
        # Asked for more workers than cores, they share them rather than wait for ever.
        "num_cpus": max(cores, round(cpus + 0.5)),
        "include_dashboard": False,
    }
    with _nothing_left(), _loopback(), _connected("a private local Ray", options):
        yield


@contextmanager
def _connected(where: str, options: dict[str, Any]) -> Iterator[None]:
    # What Ray prints of a lost node goes to stdout, where --json has one document: a raylet's last
    # twenty lines, which log_to_driver does not cover. `Launch.news` says it in one.
    ray._private.worker._worker_logs_enabled = False  # noqa: SLF001 - there is no other switch
    try:
        with _deaf_to_hangup() if options["address"] == "local" else nullcontext():
            ray.init(log_to_driver=False, configure_logging=False, **options)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cannot start on {where}: {str(error).strip().splitlines()[0]}",
            hint="`ray status` shows a cluster's state; without --address a private one is used.",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _loopback() -> Iterator[None]:
    """Let Ray's ports be this machine's own.

    Ray takes 127.0.0.1 from nobody and listens on all interfaces, but where it makes no clusters,
    as on macOS, it listens on the loopback alone.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _deaf_to_hangup() -> Iterator[None]:
    """Start Ray's processes so that a closed terminal does not end them before their workers.

    They inherit what is blocked. One that comes meanwhile is heard here afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _nothing_left() -> Iterator[None]:
    """End what a private Ray leaves behind.

    A raylet that is killed before it could end its agents, as when its start is interrupted, leaves
    them running for ever.
    """
    me = psutil.Process()
    others = set(me.children(recursive=True))  # the private PostgreSQL may be one
    try:
        yield
    except BaseException:
        started = set(me.children(recursive=True)) - others
        ray.shutdown()
        _end(started)
        raise


def _end(started: Iterable[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(started, timeout=_LEAVE_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
