"""Compare a trial trained again with its record: epoch by epoch, one verdict, and sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = "seconds"  # of an epoch; no figure of the training


class Sameness(Enum):
    """How like the record something is, the likest first."""

    EQUAL = "equal"  # every figure, to the last bit
    CLOSE = "close"  # the objective within the tolerance
    DIFFERENT = "different"


_ORDER = list(Sameness)


@dataclass(frozen=True, kw_only=True)
class ComparedEpoch:
    """One epoch of both trainings.

    Attributes:
        number: counted from 1.
        sameness: of the two.
        recorded: the objective as recorded; None where it was NaN or there is no such epoch.
        now: the objective now; None likewise.
        gap: between the two; 0 where both are NaN, infinite where only one of them is.
        differing: name -> (recorded, now) of each metric that is not equal.
    """

    number: int
    sameness: Sameness
    recorded: float | None
    now: float | None
    gap: float
    differing: dict[str, tuple[float | None, float | None]]

    def to_dict(self) -> dict[str, Any]:
        """The epoch as JSON-able values."""
        return {
            "epoch": self.number,
            "verdict": self.sameness.value,
            "recorded": self.recorded,
            "now": self.now,
            "differing": {name: list(pair) for name, pair in self.differing.items()},
        }


def compare(
    number: int,
    recorded: Mapping[str, float | None] | None,
    now: Mapping[str, float | None] | None,
    metric: str,
    tolerance: float,
) -> ComparedEpoch:
    """Compare an epoch with its record; None stands for an epoch that is not there.

    Args:
        number: counted from 1.
        recorded: every metric, None for NaN and infinities.
        now: every metric, likewise or as trained.
        metric: the objective.
        tolerance: largest difference of the objective that counts as close.
    """
    before, after = dict(recorded or {}), {name: finite(v) for name, v in (now or {}).items()}
    differing = {
        name: (before.get(name), after.get(name))
        for name in sorted((before.keys() | after.keys()) - {SECONDS})
        # NaN is unequal to all: so is a metric that only one of the two has
        if before.get(name, math.nan) != after.get(name, math.nan)
    }
    one, other = before.get(metric), after.get(metric)
    gap = _gap(one, other)
    if recorded is None or now is None or gap > tolerance:
        sameness = Sameness.DIFFERENT
    else:
        sameness = Sameness.CLOSE if differing else Sameness.EQUAL
    return ComparedEpoch(
        number=number, sameness=sameness, recorded=one, now=other, gap=gap, differing=differing
    )


def finite(value: float | None) -> float | None:
    """A figure as it is recorded: NaN and infinities are null in JSON."""
    return None if value is None or not math.isfinite(value) else float(value)


def _gap(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other)


@dataclass(frozen=True)
class Failure:
    """How a training failed: `reason: message`, after this many epochs."""

    text: str
    epochs: int

    @property
    def first_line(self) -> str:
        """Later lines are a log's tail, with addresses that change."""
        return self.text.partition("\n")[0]

    @property
    def reason(self) -> str:
        """The word before the message."""
        return self.text.partition(":")[0]

    def where(self) -> str:
        """After which epoch."""
        return f"after epoch {self.epochs}" if self.epochs else "before its first epoch ended"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A trial and its training once more.

    Attributes:
        study: the study's name.
        number: the trial's.
        state: how the trial ended: `complete`, `pruned` or `failed`.
        metric: the objective.
        tolerance: largest difference of the objective that counts as close.
        epochs: every compared one.
        failure: of a failed trial.
        failure_now: of this training; None when it did not fail.
        until: the last epoch that was asked for; None: all of them.
        weights: `recorded` and `now` (sha256), `equal`, `arrays` (whether the stored numbers are
            equal; null where nobody knows) and `note`; None when there is nothing to compare.
        arguments: what differs in the arguments that the two trainings used, one line each.
        environment: what differs in where they ran, one line each.
        notes: what else should be known.
        machines: `recorded` and `now`, as `environment.this_machine` says them.
    """

    study: str
    number: int
    state: str
    metric: str
    tolerance: float
    epochs: tuple[ComparedEpoch, ...]
    failure: Failure | None = None
    failure_now: Failure | None = None
    until: int | None = None
    weights: dict[str, Any] | None = None
    arguments: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machines: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Sameness:
        """The least like of all that was compared; of the training only."""
        found = [self._failure_verdict(), *(epoch.sameness for epoch in self.epochs)]
        return max(found, key=_ORDER.index)

    def _failure_verdict(self) -> Sameness:
        before, now = self.failure, self.failure_now
        if before is None or now is None:
            unseen = now is None and self.until is not None  # stopped before it could fail
            return Sameness.EQUAL if before is now or unseen else Sameness.DIFFERENT
        if (before.first_line, before.epochs) == (now.first_line, now.epochs):
            return Sameness.EQUAL
        return Sameness.CLOSE if before.reason == now.reason else Sameness.DIFFERENT

    def sentence(self) -> str:
        """The verdict for a person, without a full stop."""
        head = {
            Sameness.EQUAL: "is reproduced",
            Sameness.CLOSE: "is reproduced within the tolerance",
            Sameness.DIFFERENT: "is not reproduced",
        }[self.verdict]
        upto = f" up to epoch {self.until}" if self.until is not None else ""
        pruned = " (pruned)" if self.state == "pruned" else ""
        parts = [part for part in (self._failing(), self._epochs()) if part]
        return f"trial {self.number}{pruned} {head}{upto}: {'; '.join(parts)}"

    def _failing(self) -> str:
        before, now = self.failure, self.failure_now
        if before is None:
            return f"now it fails {now.where()} ({now.first_line})" if now else ""
        was = f"it failed {before.where()} ({before.first_line})"
        if now is None:
            if self.until is not None:
                return was
            return f"{was} and does not fail there again"
        if self._failure_verdict() is Sameness.EQUAL:
            return f"{was} and fails again in the same way"
        return f"{was} and fails again, {now.where()} ({now.first_line})"

    def _epochs(self) -> str:
        if not self.epochs:
            return ""
        worst = max(self.epochs, key=lambda one: (_ORDER.index(one.sameness), one.gap))
        count = len(self.epochs)
        if worst.sameness is Sameness.EQUAL:
            every = f"all {count} epochs are" if count > 1 else "its one epoch is"
            return f"{every} equal in every metric"
        unequal = [one for one in self.epochs if one.sameness is not Sameness.EQUAL]
        first = f"{len(unequal)} of {count} epochs differ, from epoch {unequal[0].number} on"
        if len(unequal) == 1:
            first = f"1 of {count} epochs differs"
        return f"{first}, {self._most(worst)}"

    def _most(self, worst: ComparedEpoch) -> str:
        at = f"at epoch {worst.number}"
        if worst.sameness is Sameness.DIFFERENT:
            return (
                f"the most {at}: {self.metric} was {_text(worst.recorded)}, is {_text(worst.now)}"
            )
        if worst.gap:
            return f"{self.metric} by at most {worst.gap:.3g}, {at}, within {self.tolerance:g}"
        gaps = [
            (_gap(*pair), name, one.number)
            for one in self.epochs
            for name, pair in one.differing.items()
        ]
        gap, name, number = max(gaps)
        return f"{self.metric} in none; the most {name} by {gap:.3g}, at epoch {number}"

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-able values."""
        before, now = self.failure, self.failure_now
        return {
            "study": self.study,
            "trial": self.number,
            "state": self.state,
            "verdict": self.verdict.value,
            "sentence": self.sentence(),
            "metric": self.metric,
            "tolerance": self.tolerance,
            "epochs": [epoch.to_dict() for epoch in self.epochs],
            "failure": {"recorded": before and before.text, "now": now and now.text}
            if before or now
            else None,
            "weights": self.weights,
            "arguments": self.arguments,
            "environment": {**self.machines, "differences": self.environment},
            "notes": self.notes,
        }


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.5g}"
