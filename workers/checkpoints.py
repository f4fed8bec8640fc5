"""Upload a trial's checkpoints while it trains, and find where a takeover may go on.

A store that is gone or full costs no epoch: the newest checkpoint waits in the uploader, `hpo
status` warns, and the training goes on.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from hpo.claims.claims import LeaseStatus
from hpo.errors import HpoError, StoreError, WeightsError
from hpo.host.log import action_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from hpo.claims.checkpoints import Checkpoints
    from hpo.trainer import Checkpoint

log = action_logger(__name__)

FIRST_WAIT_S = 0.5  # before a store that failed is tried again
LONGEST_WAIT_S = 10.0
LEAVING_S = 10.0  # how long an upload under way may hold up the end of a trial


class CheckpointUploader:
    """Uploads the newest checkpoint handed to it; older ones that still wait are dropped.

    Args:
        checkpoints: of the claimed trial; used in the thread only, until `close`.
        warn: is told what people should know, and "" when all is well again.
    """

    def __init__(self, checkpoints: Checkpoints, warn: Callable[[str], None]) -> None:
        self._checkpoints, self._warn = checkpoints, warn
        self._logger = log.bind(**checkpoints.ids)
        self._changed = threading.Condition()
        self._waiting: Checkpoint | None = None
        self._busy, self._closing, self._warned = False, False, False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A second Ctrl-C leaves now
        self.close(LEAVING_S if kind is None or issubclass(kind, Exception) else 0.0)

    def submit(self, checkpoint: Checkpoint) -> None:
        """Take this one; returns at once."""
        with self._changed:
            older, self._waiting = self._waiting, checkpoint
            self._changed.notify_all()
        if older is not None:
            older.state.unlink(missing_ok=True)

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was handed over is stored; False when the time was up or it is lost."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._waiting is None and not self._busy, timeout_s
            )

    def close(self, timeout_s: float = LEAVING_S) -> None:
        """End the thread; what waits is dropped, an upload under way is waited for so long."""
        with self._changed:
            self._closing, self._waiting = True, None
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._warned:  # of this trial; the next one begins without it
            self._say("")

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while (checkpoint := self._next()) is not None:
            stored = self._store(checkpoint)
            with self._changed:
                self._busy = False
                if not stored and self._waiting is None and not self._closing:
                    self._waiting = checkpoint  # again, unless a newer one comes meanwhile
                again = self._waiting is checkpoint
                self._changed.notify_all()
            if not again:
                checkpoint.state.unlink(missing_ok=True)
                wait_s = FIRST_WAIT_S
            else:
                self._pause(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _next(self) -> Checkpoint | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closing)
            checkpoint, self._waiting = self._waiting, None
            self._busy = checkpoint is not None
            return checkpoint

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def _store(self, checkpoint: Checkpoint) -> bool:
        """Whether this one is done with: stored, or of no use any more."""
        try:
            standing = self._checkpoints.keep(checkpoint)
        except StoreError as error:
            self._logger.warning(
                "the checkpoint of epoch %d is not stored: %s",
                checkpoint.epoch,
                error,
                action="checkpoint_upload_failed",
            )
            self._say(f"checkpoints are not stored, training goes on: {error}")
            return False
        except HpoError as error:
            # PostgreSQL: the training's own next write meets the same and decides
            self._logger.warning(
                "the checkpoint of epoch %d is not recorded: %s",
                checkpoint.epoch,
                error,
                action="checkpoint_not_recorded",
            )
            return False
        except Exception:
            # Nobody foresaw it. Without a checkpoint the trial is only dearer to take over
            self._logger.exception(
                "the checkpoint of epoch %d is lost", checkpoint.epoch, action="checkpoint_lost"
            )
            self._say(f"the checkpoint of epoch {checkpoint.epoch} is lost; the log says why")
            return True
        if standing is not LeaseStatus.LOST and self._warned:
            self._say("")
        return True

    def _say(self, text: str) -> None:
        self._warned = bool(text)
        try:
            self._warn(text)
        except HpoError as error:
            self._logger.debug("the warning is not stored: %s", error, action="warning_not_stored")


class ResumePoints:
    """Where a takeover may go on: its checkpoints, the newest first, and at last None: the start.

    Attributes:
        note: why newer checkpoints than the present one were not used; "" where none was left out.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        folder: Path,
        reach: Callable[[Callable[[], Checkpoint]], Checkpoint],
    ) -> None:
        """Look at nothing yet.

        Args:
            checkpoints: of the claimed trial.
            folder: the files come into folders of their own below it.
            reach: calls a function again until the store answers.
        """
        self.note = ""
        self._checkpoints, self._folder, self._reach = checkpoints, folder, reach

    def __iter__(self) -> Iterator[Checkpoint | None]:
        for kept in self._checkpoints.found():
            folder = self._folder / f"resume-{kept.epoch}"
            try:
                checkpoint = self._reach(partial(self._checkpoints.fetch, kept, folder))
            except WeightsError as error:
                self.refuse(kept.epoch, error)
            else:
                yield checkpoint
        yield None

    def refuse(self, epoch: int, why: Exception) -> None:
        """The checkpoint of this epoch is of no use."""
        text = f"checkpoint of epoch {epoch} not used: {why}"
        self.note = f"{self.note}; {text}" if self.note else text
