"""Start a private local Ray for workers, or enter an existing cluster.

A driver must stand on a node, so the launching machine joins the cluster as one without room for
work: `hpo launch --address` works from any machine or container that the cluster's nodes can reach.

With a wrong token Ray tries for 20 s and then says only that it failed to connect; here the head is
asked first, and the message names the token.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import ray
from ray._private import ray_constants
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address, find_node_ids
from ray._private.utils import check_version_info, compute_version_info
from ray._raylet import GcsClient  # type: ignore[attr-defined] # of Cython
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError, RayError

from hpo.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

ANSWER_S = 5.0
ENTRY_HINT = (
    "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the token that the "
    "cluster's nodes were started with."
)


def enter(address: str) -> str:
    """The cluster's HOST:PORT, which answers and lets this driver in.

    Raises:
        UsageError: an address of Ray Client's, or none at all.
        ClusterError: it does not answer, wants another token, or is of other versions.
    """
    if address.startswith("ray://"):
        raise UsageError(
            f"{address} is an address for Ray Client, which cannot watch over workers",
            hint="Give the head's own address, HOST:6379, as `ray start --address` takes it.",
        )
    where = _host_and_port(address)
    _require_entry(where)
    _require_same_versions(where)
    return where


def _host_and_port(address: str) -> str:
    try:
        where: str | None = canonicalize_bootstrap_address(address)
    except (ConnectionError, ValueError) as error:
        raise UsageError(
            f"--address {address}: {str(error).strip().partition(chr(10))[0]}",
            hint="Give the head's address, HOST:6379.",
        ) from error
    if where is None:
        raise ClusterError(
            f"--address {address}: no Ray runs on this machine",
            hint="Start one with `ray start --head`, or give the head's HOST:6379.",
        )
    return where


def _require_entry(where: str) -> None:
    try:
        channel = init_grpc_channel(where)
    except AuthenticationError as error:  # RAY_AUTH_MODE=token, and no token anywhere
        raise ClusterError(f"no token for the Ray cluster at {where}", hint=ENTRY_HINT) from error
    with channel:
        ask = NodeInfoGcsServiceStub(channel).GetClusterId
        try:
            ask(GetClusterIdRequest(), timeout=ANSWER_S)
        except AuthenticationError as error:
            text = f"no token for the Ray cluster at {where}"
            raise ClusterError(text, hint=ENTRY_HINT) from error
        except grpc.RpcError as error:
            raise _refused(where, error) from error


def _refused(where: str, error: grpc.RpcError) -> ClusterError:
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        given = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
        fault = "does not accept this token" if given else "asks for a token"
        return ClusterError(f"the Ray cluster at {where} {fault}", hint=ENTRY_HINT)
    return ClusterError(
        f"no Ray cluster answers at {where}: {error.details() or error.code().name}",
        hint="Start one with `ray start --head`, or leave --address and RAY_ADDRESS out for a "
        "private one.",
    )


def _require_same_versions(where: str) -> None:
    """Ray compares them too, once it is connected, and tells them in seven lines."""
    from ray._common.usage.usage_lib import get_cluster_metadata

    theirs = get_cluster_metadata(GcsClient(address=where))
    if not theirs:
        return  # the head has not published them yet; Ray looks again
    try:
        check_version_info(theirs, "this driver")
    except RuntimeError as error:
        ray_here, python_here = compute_version_info()
        raise ClusterError(
            f"the cluster at {where} runs Ray {theirs['ray_version']} on Python "
            f"{theirs['python_version']}, here is Ray {ray_here} on Python {python_here}",
            hint="Both must be the same on every machine: use one image, or install "
            f"`ray[default]=={theirs['ray_version']}` on Python {theirs['python_version']} here.",
        ) from error


START_S = 60.0
STOP_S = 20.0
STORE_BYTES = 100_000_000  # of shared memory: nothing but small answers goes through it

# The node ends with its driver, also when that is killed: `ray start --block` drains on SIGTERM
_START = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the driver has gone")
sys.argv = ["ray", *sys.argv[2:]]
from ray.scripts.scripts import main
main()
"""


def node_for_driver(where: str) -> AbstractContextManager[None]:
    """A node for this machine's driver while it runs; nothing where the cluster has one here."""
    return nullcontext() if _here(where) else _own_node(where)


def _here(where: str) -> bool:
    """Whether a living node of the cluster runs on this machine, looked for as Ray does."""
    local = set(find_node_ids())
    if not local:
        return False
    alive = GcsClient(address=where).get_all_node_info(
        timeout=START_S, state_filter=GcsNodeInfo.GcsNodeState.ALIVE
    )
    return any(node.node_id.hex() in local for node in alive.values())


@contextmanager
def _own_node(where: str) -> Iterator[None]:
    words = (
        "start", f"--address={where}", "--num-cpus=0", "--num-gpus=0", "--block",
        f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats",
    )  # fmt: skip
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(psutil.Process().pid), *words],
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=Path.cwd(),
            start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + START_S
            while not _here(where):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise ClusterError(
                        f"this machine could not join the cluster at {where}: "
                        f"{_last_line(said.read().decode(errors='replace'))}",
                        hint="The cluster's machines must reach this one, too: else run `hpo "
                        "launch` on one of them.",
                    )
                time.sleep(0.2)
            yield
        finally:
            _end_node(process)


def _end_node(process: subprocess.Popen[bytes]) -> None:
    first = psutil.Process(process.pid)
    family = first.children(recursive=True) if first.is_running() else []
    process.terminate()
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in psutil.wait_procs(family, timeout=STOP_S)[1]:
        one.kill()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not answer"


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
