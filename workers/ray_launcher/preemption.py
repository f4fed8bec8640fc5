"""Tell whether Ray takes this node away: a spot notice, the autoscaler, or a SIGTERM to Ray."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

import ray

from hpo.host.log import action_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

log = action_logger(__name__)

LOOK_S = 1.0
LEAST_S = 5.0  # the deadline is of another machine's clock: one that is ahead must not end epochs
LAST_S = 2.0  # before the deadline, for what comes after the trial was given back


class NodeWatch:
    """Looks, in a thread of its own, whether this actor's node is being drained.

    `ray stop` and a raylet that gets SIGTERM kill all actors at once, without notice: only a
    drained node gives one. `ray start --block` drains its node by itself when it gets SIGTERM.
    """

    def __init__(self, drain: Callable[[float], None]) -> None:
        """Watch for `drain`, which is called once, with the seconds that are left."""
        self._drain = drain
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="node-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        node = ray.get_runtime_context().get_node_id()
        said = False
        while not self._over.wait(LOOK_S):
            try:
                left_s = seconds_left(node)
            except Exception as error:  # noqa: BLE001 - Ray's internals; without a notice a lease's expiry serves
                if not said:
                    log.warning(
                        "cannot see whether Ray drains this node: %r",
                        error,
                        action="node_drain_not_visible",
                    )
                said = True
                continue
            if left_s is not None:
                log.warning(
                    "Ray drains this node: leaving within %.0f s", left_s, action="node_drained"
                )
                self._drain(left_s)
                return


def seconds_left(node: str) -> float | None:
    """Seconds until Ray takes the node away, infinite for no deadline; None when it stays.

    Not a public interface of Ray's, and there is none outside Ray Train; Ray Train, Serve and Data
    ask in this way.
    """
    deadlines_ms: dict[str, int] = ray._private.state.state.get_draining_nodes()  # noqa: SLF001 - see above
    if node not in deadlines_ms:
        return None
    if not deadlines_ms[node]:
        return math.inf
    return max(LEAST_S, deadlines_ms[node] / 1000 - time.time() - LAST_S)
