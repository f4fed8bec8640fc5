"""From where a taken-over trial may go on; knows no training."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hpo.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hpo.claims.checkpoints import Checkpoints
    from hpo.trainer import Checkpoint


class Starts:
    """The newest checkpoint first, then the one before, and at last None: the start.

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
