"""Whether this driver may enter the cluster at an address: it answers, the token, the versions.

Ray itself tries a wrong token for 20 s and then says only that it failed to connect.
"""

from __future__ import annotations

import os

import grpc
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address
from ray._private.utils import check_version_info, compute_version_info
from ray._raylet import GcsClient  # type: ignore[attr-defined] # of Cython
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from hpo.errors import ClusterError, UsageError

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
