"""A node of Ray's without room for work, on a machine that has none: a driver must stand on one.

So `hpo launch --address` works from any machine or container that the cluster's nodes can reach.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from ray._private.services import find_node_ids
from ray._raylet import GcsClient  # type: ignore[attr-defined] # of Cython
from ray.core.generated.gcs_pb2 import GcsNodeInfo

from hpo.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

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
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
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
