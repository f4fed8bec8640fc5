"""Free TCP ports on this machine's loopback; knows nothing of who wants one."""

from __future__ import annotations

import socket
from contextlib import closing

HOST = "127.0.0.1"
TRIES = 100


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now; another may be quicker."""
    return _bind(port) is not None


def any_free() -> int | None:
    """A port that the system gives; None when it has none left."""
    return _bind(0)


def next_free(first: int) -> int | None:
    """The first free port from `first` upward; None when the next 100 are all taken."""
    return next((port for port in range(first, min(first + TRIES, 65536)) if is_free(port)), None)


def _bind(port: int) -> int | None:
    with closing(socket.socket()) as probe:
        # As servers do: connections of an earlier server that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
