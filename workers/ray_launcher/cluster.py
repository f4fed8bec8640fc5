"""The Ray that workers run on: a private local one, or an existing cluster; knows no worker."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.exceptions import RayError

from hpo.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CONNECT_S = 5.0
_LEAVE_S = 2.0  # for Ray's processes to end by themselves


@contextmanager
def cluster(address: str | None, cpus: float) -> Iterator[None]:
    """A connection to the cluster at `address`, or to a private local Ray, left at the end.

    Args:
        address: of an existing cluster; None starts a private one.
        cpus: cores that all workers together ask for.

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
            "num_cpus": max(cores, round(cpus + 0.5)),
            "include_dashboard": False,
        }
    # That its token authentication is on is as it should be, and no warning.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(
        logging.ERROR
    )
    with _nothing_left() if address is None else nullcontext():
        try:
            ray.init(**options)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            where = address or "a private local Ray"
            raise ClusterError(
                f"cannot start on {where}: {str(error).strip().splitlines()[0]}",
                hint="`ray status` shows a cluster's state; without --address a private one is "
                "used.",
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


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
