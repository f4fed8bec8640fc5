"""Whether a candidate beats the present champion on the same validation data; writes nothing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from hpo.database.queries import query
from hpo.errors import HpoError, ServiceError, WeightsError
from hpo.readiness import require_same

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

    from hpo.artifacts.store import ArtifactStore
    from hpo.promotion.candidate import Candidate
    from hpo.settings import Settings
    from hpo.study import Study
    from hpo.tracking.registry import Registry, Version
    from hpo.trainer import Evaluation, Job, Package

VALUE, METRIC, DIRECTION = "hpo.value", "hpo.metric", "hpo.direction"
DATASET, TRAINER, WEIGHTS = "hpo.dataset_fingerprint", "hpo.trainer", "hpo.weights_sha256"


class Workshop(Protocol):
    """A trainer's heavy verbs, run elsewhere than in this process."""

    def evaluate(self, weights: Path, job: Job, split: str) -> Evaluation:
        """See `Trainer.evaluate`."""
        ...

    def package(self, weights: Path, job: Job) -> Package:
        """See `Trainer.package`."""
        ...


@dataclass(frozen=True)
class Comparison:
    """Candidate against champion.

    Attributes:
        wins: whether the candidate takes the champion's place.
        reason: why, or why not, as a sentence part.
        comparable: False when their figures could not be compared; the champion then stays.
        champion_value: the champion's figure; None when there is none.
        evaluated: whether that figure was found now, on this study's data.
    """

    wins: bool
    reason: str
    comparable: bool = True
    champion_value: float | None = None
    evaluated: bool = False

    def evidence(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {
            "reason": self.reason,
            "comparable": self.comparable,
            "champion_value": self.champion_value,
            "champion_evaluated": self.evaluated,
        }


@dataclass(frozen=True)
class Judge:
    """Everything a comparison may need.

    Attributes:
        connection: for what our own record says of the champion.
        settings: where this machine's data is.
        study: whose candidate it is.
        registry: where the champion is.
        store: where weights lie by content.
        workshop: where the champion is evaluated.
        job: makes the job of an evaluation, with a folder of its own.
        progress: told what takes long.
    """

    connection: Connection
    settings: Settings
    study: Study
    registry: Registry
    store: ArtifactStore
    workshop: Workshop
    job: Callable[[], Job]
    progress: Callable[[str], None]

    def compare(self, candidate: Candidate, champion: Version | None) -> Comparison:
        """The candidate must be strictly better to win.

        Raises:
            ServiceError: a service went away meanwhile.
        """
        if champion is None:
            return Comparison(wins=True, reason="it is the model's first champion")
        known = self._known(champion)
        if champion.decision is None:
            return _incomparable(
                f"version {champion.number} was registered by another hand than this service's",
                self.study,
            )
        if self._same_ground(known) and VALUE in known:
            return self._weigh(candidate, float(known[VALUE]), evaluated=False)
        try:
            value = self._evaluate(champion, known)
        except ServiceError:
            raise
        except HpoError as error:
            return _incomparable(
                f"version {champion.number} cannot be evaluated here ({error})", self.study
            )
        return self._weigh(candidate, value, evaluated=True)

    def _known(self, champion: Version) -> dict[str, str]:
        """What is recorded of the champion: our own table before the tags, which anyone can set."""
        row = None
        if champion.decision is not None:
            # Compared as text: a tag is whatever someone typed.
            row = self.connection.execute(
                query("promotion_by_tag"), {"decision": champion.decision}
            ).one_or_none()
        if row is None:
            return dict(champion.tags)
        return {
            f"hpo.{name}": str(value) for name, value in row.evidence.items() if value is not None
        }

    def _same_ground(self, known: dict[str, str]) -> bool:
        """Whether the champion's recorded figure was measured as the candidate's was."""
        objective = self.study.spec.objective
        return (
            known.get(DATASET) == self.study.fingerprint
            and known.get(METRIC) == objective.metric
            and known.get(DIRECTION) == objective.direction
            and known.get(TRAINER) == self.study.spec.trainer
        )

    def _evaluate(self, champion: Version, known: dict[str, str]) -> float:
        """The champion's figure on this study's validation split."""
        spec = self.study.spec
        if known.get(TRAINER) != spec.trainer:
            raise WeightsError(
                f"it is of the trainer {known.get(TRAINER)}, this study's is {spec.trainer}"
            )
        sha256 = known.get(WEIGHTS, "")
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise WeightsError(f"the sha256 of its weights is recorded as {sha256!r}")
        job = self.job()
        data = require_same(self.study, self.settings)
        self.progress(f"evaluating the champion, version {champion.number}, on this study's data")
        try:
            weights = self.store.fetch(sha256, job.run_dir / "champion" / _file_name(known))
        except WeightsError:
            weights = self.registry.fetch(champion, sha256, job.run_dir / "version")
        figures = self.workshop.evaluate(weights, replace(job, data=data), "val").metrics
        value = figures.get(spec.objective.metric, math.nan)
        if not math.isfinite(value):
            raise WeightsError(f"its {spec.objective.metric} is {value}")
        return value

    def _weigh(self, candidate: Candidate, value: float, *, evaluated: bool) -> Comparison:
        objective = self.study.spec.objective
        wins = objective.better(candidate.value, value)
        how = "evaluated on this study's data" if evaluated else "on the same data"
        word = "better than" if wins else "not better than"
        reason = (
            f"{objective.metric} {candidate.value:.4f} is {word} the {value:.4f} "
            f"of the champion {how}"
        )
        return Comparison(wins, reason, champion_value=value, evaluated=evaluated)


def _incomparable(why: str, study: Study) -> Comparison:
    target = study.spec.promotion
    reason = (
        f"the two cannot be compared: {why}. To go on, create the study with another "
        f"promotion.model, or remove the alias '{target.alias}' from '{target.model}' in MLflow "
        "and run `hpo finalize` again"
    )
    return Comparison(wins=False, reason=reason, comparable=False)


def _file_name(known: dict[str, str]) -> str:
    return known.get("hpo.weights_name", "weights/best.pt").rpartition("/")[2]
