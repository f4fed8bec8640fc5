"""SpaceFaults: the error that names everything wrong with a search space."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


LONGEST = 60  # characters of a value that a fault shows


class SpaceFaults(ValueError):  # noqa: N818 - it is the list of faults, raised as a whole
    """All faults of one search space, reported at once.

    Attributes:
        what: the space or file they were found in.
        faults: one sentence each, starting with the key it speaks of.
    """

    def __init__(self, what: str, faults: Sequence[str]) -> None:
        self.what = what
        self.faults = tuple(faults)
        # Both go into args, so that the error survives a pickle on its way between processes
        super().__init__(what, self.faults)

    def __str__(self) -> str:
        return f"{self.what}: " + "; ".join(self.faults)


def shown(value: object) -> str:
    """A value as a fault shows it, cut where it would flood the message."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
