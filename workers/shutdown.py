"""The request that a worker leaves, and the time that is left for it."""

from __future__ import annotations

import math
import threading
import time

GRACE_S = 30.0  # spot machines are taken away two minutes after the notice, some after 30 s


class Shutdown:
    """A request to leave, made once, from any thread; from then on the grace runs.

    Attributes:
        event: set when leaving was requested.
        grace_s: seconds that the present epoch may still take.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.event = threading.Event()
        self.grace_s = grace_s
        self._until = math.inf

    def request(self, within_s: float = math.inf) -> None:
        """Request to leave within the grace, or `within_s` where that is less; once is enough."""
        if not self.event.is_set():
            self._until = time.monotonic() + min(self.grace_s, within_s)
            self.event.set()

    @property
    def requested(self) -> bool:
        """Whether leaving was requested."""
        return self.event.is_set()

    @property
    def left_s(self) -> float:
        """Seconds of the grace that are left; infinite before the request, never below 0."""
        return max(0.0, self._until - time.monotonic())
