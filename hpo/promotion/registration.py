"""A candidate's version in the registry: its run, its tags, its description, and the alias."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from hpo.promotion.comparison import Comparison
from hpo.promotion.trial_run import trial_run_id
from hpo.tracking.registry import DECISION

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable
    from pathlib import Path

    from hpo.promotion.candidate import Candidate
    from hpo.promotion.decision import Decision
    from hpo.settings import Settings
    from hpo.study import Study
    from hpo.tracking.registry import Registry, Version
    from hpo.trainer import Package

# What the champion was when the alias was moved: MLflow keeps no history of aliases, and whoever
# moved it may die before its own record is written.
PREVIOUS, REASON = "hpo.previous_version", "hpo.reason"
CHAMPION_VALUE, EVALUATED = "hpo.champion_value", "hpo.champion_evaluated"
# Evidence that is shown as tags `hpo.<name>`, and read back from them when comparing.
SHOWN = (
    "value", "metric", "direction", "best_epoch", "weights_name", "weights_sha256", "spec_sha256",
    "dataset_fingerprint", "trainer", "code_version",
)  # fmt: skip
LONGEST_PARAM = 250  # characters of a parameter shown with the logged model


@dataclass
class Registration:
    """What the registry is to hold of one candidate.

    Attributes:
        settings: where MLflow is.
        study: the study.
        candidate: its best trial.
        key: the decision's name.
        registry: where to.
        pack: the trainer's packaging of the weights.
    """

    settings: Settings
    study: Study
    candidate: Candidate
    key: uuid.UUID
    registry: Registry
    pack: Callable[[Path], Package]

    @cached_property
    def run_id(self) -> str:
        """The trial's MLflow run, made where it is missing."""
        return trial_run_id(self.settings, self.study, self.candidate.trial_id)

    def version(self, weights: Path, decision: Decision) -> Version:
        """The version with these weights, made or found; its alias is not moved yet."""
        found = self.registry.find(str(self.key))
        if found is not None:
            return found
        run_id = self.run_id
        params = {name: str(value)[:LONGEST_PARAM] for name, value in self.candidate.params.items()}
        return self.registry.create(
            decision.model, run_id, self.pack(weights), tags=self._tags(decision), params=params,
            description=self._description(decision),
        )  # fmt: skip

    def crown(self, version: Version, decision: Decision) -> None:
        """Move the alias to the version; what was before is noted at the version first."""
        value = decision.evidence["champion_value"]
        before = {
            PREVIOUS: str(decision.previous_version or ""),
            REASON: decision.reason,
            CHAMPION_VALUE: "" if value is None else str(value),
            EVALUATED: str(decision.evidence["champion_evaluated"]).lower(),
        }
        self.registry.tag(version, before)
        self.registry.move_alias(version, decision.alias)

    @staticmethod
    def interrupted(version: Version) -> tuple[Comparison, int | None]:
        """What `crown` noted at a version: (the comparison it won, the champion before it)."""
        tags = version.tags
        value, previous = tags.get(CHAMPION_VALUE), tags.get(PREVIOUS)
        comparison = Comparison(
            wins=True, reason=tags.get(REASON, ""), champion_value=float(value) if value else None,
            evaluated=tags.get(EVALUATED) == "true",
        )  # fmt: skip
        return comparison, int(previous) if previous else None

    def _tags(self, decision: Decision) -> dict[str, str]:
        tags = {
            f"hpo.{name}": str(decision.evidence[name])
            for name in SHOWN
            if decision.evidence[name] is not None
        }
        if decision.simulated:
            tags["simulated"] = "true"
        own = {"hpo.study": self.study.name, "hpo.trial": str(self.candidate.number)}
        return {DECISION: str(self.key), **own, **tags}

    def _description(self, decision: Decision) -> str:
        evidence = decision.evidence
        simulated = "SIMULATED, no real training. " if decision.simulated else ""
        return (
            f"{simulated}Trial {self.candidate.number} of the study {self.study.name}: "
            f"{evidence['metric']} {evidence['value']:.5f} at epoch {evidence['best_epoch']}. "
            "Why, and how to undo it: decision.md among the artifacts of its run."
        )
