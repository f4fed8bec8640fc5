"""What was decided about a study's best trial, under a name that the same decision always has."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Row

    from hpo.promotion.candidate import Candidate
    from hpo.study import Study

_NAMESPACE = uuid.UUID("6f1d2b0e-5a0c-5d39-9b64-0c9d5c8b7c11")


class Outcome(Enum):
    """How a decision ends."""

    PROMOTED = "promoted"  # the trial became a version, and the alias points to it
    KEPT = "kept"  # the alias stays where it is
    NONE = "none"  # there is no trial to decide about


@dataclass(frozen=True)
class Decision:
    """One decision.

    Attributes:
        outcome: how it ended.
        study: the study's name.
        model: the registered model.
        alias: of its champion.
        reason: why, as a sentence part.
        trial: number of the study's best trial; None when there is none.
        version: the champion's version after the decision; None when there is none, or when it
            was not made (a dry run).
        previous_version: the champion's version before it.
        evidence: the figures it was decided on, JSON-able.
        already: whether it had been recorded before this call.
        dry_run: whether nothing was written.
    """

    outcome: Outcome
    study: str
    model: str
    alias: str
    reason: str
    trial: int | None = None
    version: int | None = None
    previous_version: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    already: bool = False
    dry_run: bool = False

    @classmethod
    def from_row(cls, row: Row[Any]) -> Decision:
        """The recorded decision of a row of hpo.promotion."""
        return cls(
            Outcome(row.outcome), row.study_name, row.model, row.alias, row.evidence["reason"],
            row.trial_number, row.version, row.previous_version, row.evidence, already=True,
        )  # fmt: skip

    @property
    def simulated(self) -> bool:
        """Whether the figures are not of a real training."""
        return bool(self.evidence.get("simulated"))

    def sentence(self) -> str:
        """The decision in one sentence, for a person."""
        metric, value = self.evidence.get("metric"), self.evidence.get("value")
        trial = f"trial {self.trial} ({metric} {value:.4f})" if value is not None else ""
        note = " [simulated: no real training]" if self.simulated else ""
        if self.outcome is Outcome.NONE:
            return f"nothing promoted: {self.reason}{note}"
        if self.outcome is Outcome.KEPT:
            stays = f"{self.model} version {self.previous_version} stays {self.alias}"
            return f"{stays}, not {trial}: {self.reason}{note}"
        verb = "would promote" if self.dry_run else "already promoted" * self.already or "promoted"
        target = f"{self.model} version {self.version}" if self.version else f"{self.model}"
        return f"{verb} {trial} as {target}, alias {self.alias}: {self.reason}{note}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {
            "outcome": self.outcome.value,
            "study": self.study,
            "model": self.model,
            "alias": self.alias,
            "trial": self.trial,
            "metric": self.evidence.get("metric"),
            "value": self.evidence.get("value"),
            "version": self.version,
            "previous_version": self.previous_version,
            "reason": self.reason,
            "already": self.already,
            "dry_run": self.dry_run,
            "simulated": self.simulated,
            "evidence": self.evidence,
        }


def promotion_id(study: Study, candidate: Candidate) -> uuid.UUID:
    """The name of «this trial's weights become the alias' version»: the same for every caller."""
    return _named(study, candidate.number, candidate.weights_sha256)


def kept_id(promotion: uuid.UUID, champion: str, *, comparable: bool) -> uuid.UUID:
    """The name of «this champion stays before that promotion».

    Args:
        promotion: what was not done.
        champion: tells the champion's version from every other one.
        comparable: whether their figures could be compared.
    """
    return uuid.uuid5(promotion, f"kept {champion} {comparable}")


def none_id(study: Study, counts: dict[str, int]) -> uuid.UUID:
    """The name of «nothing to promote among these trials»."""
    return _named(study, "none", sorted(counts.items()))


def _named(study: Study, *parts: object) -> uuid.UUID:
    target = study.spec.promotion
    # By its uid, which a backup brings along: Optuna's number is of one database
    key = (str(study.uid), study.name, study.spec_sha256, *parts, target.model, target.alias)
    return uuid.uuid5(_NAMESPACE, repr(key))
