"""Renew the lease of a running trial from a thread of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hpo.claims.claims import LeaseStatus
from hpo.errors import HpoError
from hpo.host.log import action_logger

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from hpo.claims.claims import Claim, Claims

log = action_logger(__name__)

_RENEWALS = 3  # in a lease's time: two may fail before it runs out


class LeaseHeartbeat:
    """Renews one claim's lease until left, on a connection of its own.

    A database blip delays a renewal and ends nothing: the fence is the token, so a lease that ran
    out and that nobody took over is renewed when the database is back.

    Attributes:
        standing: what the last renewal found.
    """

    def __init__(self, claims: Claims, claim: Claim) -> None:
        self.standing = LeaseStatus.GO
        self._claims, self._claim = claims, claim
        self._logger = log.bind(**claims.ids, trial=claim.number)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        # A second Ctrl-C leaves now
        if kind is None or issubclass(kind, Exception):
            self._thread.join(timeout=self._claims.lease_s)

    def _run(self) -> None:
        pause_s = self._claims.lease_s / _RENEWALS
        while not self._left.wait(pause_s):
            try:
                self.standing = self._claims.renew(self._claim)
            except HpoError as error:
                # Patience is spent, or the server refuses us. The training's own next write meets
                # the same and ends the trial in order; until then, keep asking.
                number = self._claim.number
                self._logger.warning(
                    "lease of trial %d not renewed: %s", number, error, action="lease_not_renewed"
                )
            except Exception:
                # Nobody foresaw it. A thread that rots in silence would let the lease run out under
                # a training that goes on: give the trial up instead.
                number = self._claim.number
                self._logger.exception(
                    "the lease of trial %d cannot be renewed", number, action="lease_given_up"
                )
                self.standing = LeaseStatus.LOST
            if self.standing is LeaseStatus.LOST:
                return
