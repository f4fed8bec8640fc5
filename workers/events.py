"""The events that a worker tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What happened."""

    CLAIMED = "claimed"
    EPOCH = "epoch"
    ENDED = "ended"
    WAITING = "waiting"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened in a worker.

    Attributes:
        kind: what.
        trial: the trial's number.
        epoch: counted from 1.
        epochs: of the trial.
        value: the objective's metric in this epoch; at the end, of the best epoch.
        text: the trial's end state, or a sentence.
        params: of a claimed trial.
        what: `trial`, or `final` for one of a study's finals.
    """

    kind: Kind
    trial: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    value: float | None = None
    text: str = ""
    params: dict[str, object] | None = None
    what: str = "trial"


Watch = Callable[[Event], None]


def nobody(event: Event) -> None:
    """Watch nothing."""
    del event
