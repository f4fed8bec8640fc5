"""The decision about a study's best trial, under a name that the same decision always has."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from hpo.promotion.evidence import Evidence

if TYPE_CHECKING:
    from sqlalchemy import Row

    from hpo.studies.store import Study

_NAMESPACE = uuid.UUID("6f1d2b0e-5a0c-5d39-9b64-0c9d5c8b7c11")


class Outcome(Enum):
    """How a decision ends."""

    PROMOTED = "promoted"  # the trial became a version, and the alias points to it
    KEPT = "kept"  # the trial is not better, or breaks a rule: the alias stays where it is
    INCONCLUSIVE = "inconclusive"  # it may be better, but that is not shown: the alias stays
    ROLLED_BACK = "rolled_back"  # a person moved the alias back
    NONE = "none"  # there is no trial to decide about


@dataclass(frozen=True, kw_only=True)
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
        evidence: what it was decided on.
        override: whether a person promoted past the gate.
        why: what that person said, or who rolled back.
        actor: that person, `user@host`.
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
    evidence: Evidence = field(default_factory=Evidence)
    override: bool = False
    why: str | None = None
    actor: str | None = None
    already: bool = False
    dry_run: bool = False

    @classmethod
    def from_row(cls, row: Row[Any]) -> Decision:
        """The recorded decision of a row of hpo.promotion."""
        evidence = Evidence.from_json(row.evidence)
        return cls(
            outcome=Outcome(row.outcome),
            study=row.study_name,
            model=row.model,
            alias=row.alias,
            reason=evidence.reason,
            trial=row.trial_number,
            version=row.version,
            previous_version=row.previous_version,
            evidence=evidence,
            override=row.override,
            why=row.why,
            actor=row.actor,
            already=True,
        )

    @property
    def simulated(self) -> bool:
        """Whether the figures are not of a real training."""
        return bool(self.evidence.simulated)

    def sentence(self) -> str:
        """The decision in one sentence, for a person."""
        note = " [simulated: no real training]" if self.simulated else ""
        return f"{self._said()}: {self.reason}{note}"

    def _said(self) -> str:
        if self.outcome is Outcome.NONE:
            return "nothing promoted"
        name = self.model if self.version is None else f"{self.model} version {self.version}"
        if self.outcome is Outcome.ROLLED_BACK:
            return (
                f"rolled back: the alias {self.alias} is at {name if self.version else 'nothing'}"
            )
        trial = f"trial {self.trial}{self._figures()}"
        if self.outcome is not Outcome.PROMOTED and self.previous_version is None:
            return f"kept back: {self.model} gets no champion, not {trial}"
        if self.outcome is not Outcome.PROMOTED:
            stays = f"{self.model} version {self.previous_version} stays {self.alias}"
            return f"{self.outcome.value}: {stays}, not {trial}"
        verb = "would promote" if self.dry_run else "already promoted" * self.already or "promoted"
        past = ", past the gate," if self.override else ""
        return f"{verb}{past} {trial} as {name}, alias {self.alias}"

    def _figures(self) -> str:
        value, test = self.evidence.value, self.evidence.test_value
        if value is None:
            return ""
        held_out = "" if test is None else f", {test:.4f} on the test split"
        return f" ({self.evidence.metric} {value:.4f}{held_out})"

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON-able values."""
        return {
            "outcome": self.outcome.value,
            "study": self.study,
            "model": self.model,
            "alias": self.alias,
            "trial": self.trial,
            "metric": self.evidence.metric,
            "value": self.evidence.value,
            "test_value": self.evidence.test_value,
            "version": self.version,
            "previous_version": self.previous_version,
            "reason": self.reason,
            "override": self.override,
            "why": self.why,
            "actor": self.actor,
            "already": self.already,
            "dry_run": self.dry_run,
            "simulated": self.simulated,
            "evidence": self.evidence.to_json(),
        }


def promotion_id(study: Study, number: int, weights_sha256: str | None) -> uuid.UUID:
    """The name of «this trial's weights become the alias' version»: the same for every caller."""
    return _named(study, number, weights_sha256)


def kept_id(promotion: uuid.UUID, champion: str, *, comparable: bool) -> uuid.UUID:
    """The name of «this champion stays before that promotion».

    Args:
        promotion: what was not done.
        champion: tells the champion's version from every other one.
        comparable: whether their figures could be compared.
    """
    return uuid.uuid5(promotion, f"kept {champion} {comparable}")


def override_id(promotion: uuid.UUID, before: int) -> uuid.UUID:
    """The name of «a person promotes this, past the gate».

    Args:
        promotion: what is done.
        before: the record's last row for the model: after another decision it is a new one.
    """
    return uuid.uuid5(promotion, f"override {before}")


def none_id(study: Study, counts: dict[str, int], reason: str = "") -> uuid.UUID:
    """The name of «nothing to promote among these trials», for a reason of their finals or ""."""
    return _named(study, "none", sorted(counts.items()), *([reason] if reason else []))


def _named(study: Study, *parts: object) -> uuid.UUID:
    target = study.spec.promotion
    # By its uid, which a backup brings along: Optuna's number is of one database
    key = (str(study.uid), study.name, study.spec_sha256, *parts, target.model, target.alias)
    return uuid.uuid5(_NAMESPACE, repr(key))
