"""What a decision rests on, as the typed record that hpo.promotion stores as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hpo.evaluation.record import EvaluationRecord
from hpo.evaluation.significance import Gain
from hpo.host.serialization import JsonRecord

# Of what was not evaluated, nothing is known
NOT_EVALUATED = EvaluationRecord(weights_sha256="", test_fingerprint="", metrics={}, images=0)
_EVALUATED = frozenset(one.name for one in fields(EvaluationRecord))


def _evaluated(document: Mapping[str, Any] | None) -> EvaluationRecord | None:
    """The evaluation of a document, whatever it lacks; None where there is none."""
    if not document:
        return None
    known = {name: value for name, value in document.items() if name in _EVALUATED}
    lacking: dict[str, Any] = {
        "weights_sha256": "",
        "test_fingerprint": "",
        "metrics": {},
        "images": None,
    }
    return EvaluationRecord.from_dict(lacking | known)


def _interval(ends: list[float | None] | None) -> tuple[float, float] | None:
    """(low, high); None where one of them does not exist."""
    if not ends or any(end is None for end in ends):
        return None
    low, high = ends
    return (float(low or 0), float(high or 0))


def _written(evaluated: EvaluationRecord | None) -> dict[str, Any] | None:
    return None if evaluated is None else evaluated.to_dict()


_EVALUATION = {"read": _evaluated, "write": _written}


@dataclass(frozen=True, kw_only=True)
class SeedResult(JsonRecord):
    """One training of a finalist.

    Attributes:
        seed: of the training.
        value: the objective in validation, of its best epoch.
        final: its number among the finals; None where it was not in any.
        weights_sha256: of its weights.
    """

    seed: int
    value: float
    final: int | None = None
    weights_sha256: str = ""


def _seeds(documents: list[Mapping[str, Any]] | None) -> tuple[SeedResult, ...]:
    return tuple(SeedResult.from_json(one) for one in documents or ())


@dataclass(frozen=True, kw_only=True)
class FinalistResult(JsonRecord):
    """What came of one of the study's best trials.

    Attributes:
        trial: its number.
        value: mean of the objective in validation over its trainings; None without any.
        spread: standard deviation of these values; None for one alone.
        seeds: its trainings.
        evaluation: its weights' figures on the test split; None where they were not evaluated.
        interval: (low, high) of the objective on the test split; None where it is not known.
        out: why it could not challenge the champion; "" when it could.
    """

    trial: int
    value: float | None = None
    spread: float | None = None
    seeds: tuple[SeedResult, ...] = field(default=(), metadata={"read": _seeds})
    evaluation: EvaluationRecord | None = field(default=None, metadata=_EVALUATION)
    interval: tuple[float, float] | None = field(default=None, metadata={"read": _interval})
    out: str = ""

    def test_value(self, metric: str) -> float | None:
        """The metric on the test split; None where it was not evaluated."""
        return None if self.evaluation is None else self.evaluation.metrics.get(metric)

    @property
    def seed_values(self) -> dict[int, float]:
        """The objective in validation by the training's seed."""
        return {one.seed: one.value for one in self.seeds}


@dataclass(frozen=True, kw_only=True)
class ChampionResult(JsonRecord):
    """The champion that was there before the decision.

    Attributes:
        version: its number.
        study: of the study that made it; None where that is not known.
        trial: its trial's number.
        evaluation: its figures on the test split; None where it could not be evaluated.
        evaluated: whether it was evaluated for this decision, not before.
        value: the objective on the test split.
    """

    version: int | None = None
    trial: int | None = None
    study: str | None = None
    evaluation: EvaluationRecord | None = field(default=None, metadata=_EVALUATION)
    evaluated: bool = False
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassResult(JsonRecord):
    """AP50 of one class on the test split.

    Attributes:
        name: the class.
        challenger, champion: of each; None where it is not known.
        difference: challenger less champion.
    """

    name: str
    challenger: float | None = None
    champion: float | None = None
    difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class RuleResult(JsonRecord):
    """One rule of the gate, and how it was met.

    Attributes:
        rule: its name.
        wanted, seen: as texts.
        met: whether what was seen is what was wanted.
    """

    rule: str
    wanted: str
    seen: str
    met: bool


@dataclass(frozen=True, kw_only=True)
class Cost(JsonRecord):
    """Seconds of training and validation by kind of device, of the trials and of their finals."""

    trials_s: Mapping[str, float] = field(default_factory=dict)
    finals_s: Mapping[str, float] = field(default_factory=dict)


def _gain(document: Any) -> Gain | None:
    return Gain.from_json(document) if isinstance(document, Mapping) and document else None


def _champion(document: Any) -> ChampionResult | None:
    return ChampionResult.from_json(document) if isinstance(document, Mapping) else None


def _cost(document: Mapping[str, Any] | None) -> Cost | None:
    return Cost.from_json(document) if document else None


def _finalists(documents: list[Mapping[str, Any]] | None) -> tuple[FinalistResult, ...]:
    return tuple(FinalistResult.from_json(one) for one in documents or ())


def _classes(documents: list[Mapping[str, Any]] | None) -> tuple[ClassResult, ...]:
    return tuple(ClassResult.from_json(one) for one in documents or ())


def _rules(documents: list[Mapping[str, Any]] | None) -> tuple[RuleResult, ...]:
    return tuple(RuleResult.from_json(one) for one in documents or ())


# What the evidence about a challenger always says, though it be null
ABOUT_A_CHALLENGER = frozenset({
    "reason", "decision", "metric", "direction", "value", "test_value", "best_epoch", "seed",
    "params", "train", "weights_name", "weights_sha256", "spec_sha256", "dataset_fingerprint",
    "test_fingerprint", "trainer", "code_version", "simulated", "trials", "evaluation",
    "finalists", "cost", "rules", "difference", "comparable", "champion", "classes",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Evidence(JsonRecord):
    """What a decision rests on. Only `reason` is of every decision.

    Attributes:
        reason: why, as a sentence part.
        decision: the name of the promotion that the version was made for.
        metric, direction: the objective's.
        value: the challenger's mean of the objective in validation.
        test_value: the objective on the test split.
        best_epoch, seed: of the training whose weights stand for it.
        params: its parameters.
        train: the study's fixed arguments.
        weights_name, weights_sha256: of its weights.
        spec_sha256, dataset_fingerprint, test_fingerprint: of the study and its data.
        trainer, code_version: what trained it.
        simulated: whether the figures are not of a real training.
        trials: number of the study's trials by how they ended.
        evaluation: the challenger's figures on the test split.
        finalists: every finalist, best in validation first.
        cost: what the study took.
        rules: each rule of the gate.
        gain: over the champion; None where the two were not compared.
        comparable: whether they could be.
        champion: the one before; None where there was none.
        classes: each class of the test split.
        override: whether a person promoted past the gate.
        why, actor: what that person said, and who it was.
        run_id: the MLflow run of the training.
        external_change: what was done to the alias outside this service before a rollback.
    """

    reason: str = ""
    decision: str | None = None
    metric: str | None = None
    direction: str | None = None
    value: float | None = None
    test_value: float | None = None
    best_epoch: int | None = None
    seed: int | None = None
    params: Mapping[str, Any] | None = None
    train: Mapping[str, Any] | None = None
    weights_name: str | None = None
    weights_sha256: str | None = None
    spec_sha256: str | None = None
    dataset_fingerprint: str | None = None
    test_fingerprint: str | None = None
    trainer: str | None = None
    code_version: str | None = None
    simulated: bool = False
    trials: Mapping[str, int] | None = None
    evaluation: EvaluationRecord | None = field(default=None, metadata=_EVALUATION)
    finalists: tuple[FinalistResult, ...] = field(default=(), metadata={"read": _finalists})
    cost: Cost | None = field(default=None, metadata={"read": _cost})
    rules: tuple[RuleResult, ...] = field(default=(), metadata={"read": _rules})
    gain: Gain | None = field(default=None, metadata={"key": "difference", "read": _gain})
    comparable: bool = True
    champion: ChampionResult | None = field(default=None, metadata={"read": _champion})
    classes: tuple[ClassResult, ...] = field(default=(), metadata={"read": _classes})
    override: bool = False
    why: str | None = None
    actor: str | None = None
    run_id: str | None = None
    external_change: str | None = field(default=None, metadata={"key": "moved_by_hand"})
    # The evidence of one kind of decision says nothing of what belongs to another
    stated: frozenset[str] | None = field(default=frozenset(), compare=False)

    def finalist(self, trial: int | None) -> FinalistResult | None:
        """The finalist of that number; None where it is not among them."""
        return next((one for one in self.finalists if one.trial == trial), None)

    def evaluated(self, trial: int | None) -> EvaluationRecord | None:
        """The trial's figures on the test split; None where it was not evaluated."""
        if self.evaluation is not None:
            return self.evaluation
        return next(
            (one.evaluation for one in self.finalists if one.trial == trial and one.evaluation),
            None,
        )
