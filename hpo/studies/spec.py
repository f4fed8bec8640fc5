"""A study's specification: frozen, canonical, hashed."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hpo.trainer import sign_of
from search_spaces.space import SearchSpace

LARGEST_INTEGER = 2**31 - 1  # PostgreSQL's, of budgets and epochs


@dataclass(frozen=True)
class Objective:
    """What is optimized: a metric of the trainer's epochs and `maximize` or `minimize`."""

    metric: str
    direction: str

    @property
    def sign(self) -> int:
        """+1 where a larger value is better, -1 where a smaller one is."""
        return sign_of(self.direction)

    def rank_key(self, value: float) -> float:
        """The sort key of a value of the metric: best first, NaN last."""
        return math.inf if math.isnan(value) else -self.sign * value


@dataclass(frozen=True)
class Budget:
    """What a study may cost.

    Attributes:
        trials: exact number of trials, whatever becomes of them.
        epochs: epochs of each trial; None when `epochs` is searched.
        timeout_s: seconds from the first claim after which no new trial starts; None: no limit.
    """

    trials: int
    epochs: int | None
    timeout_s: float | None


@dataclass(frozen=True)
class Choice:
    """A sampler or pruner by name, with every option filled in."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """Where the best trial goes, and what it must show on the test split to get there.

    Attributes:
        model: the registered model's name.
        alias: of its champion.
        wanted: False where a study promotes nothing (`promotion: none`).
        finalists: how many of the best trials are looked at again.
        seeds: trainings of each finalist, the trial's own among them; 1: none is trained again.
        full_epochs: epochs of those trainings; None: as many as the trials'. With another number
            than the trials' a finalist's own training does not count.
        confidence: one-sided, that the gain is above `min_gain`; 1 - confidence is the rate at
            which an equal model would be promoted.
        resamples: of the test images, in the bootstrap; as many swaps of the two models.
        seed: of both.
        min_value: the objective on the test split must be better than this; None: no such rule.
        min_gain: in the objective's own unit.
        max_class_loss: largest fall of a class's AP50; None: no such rule.
        max_latency_ms: median of one image, on the device that evaluates; None: no such rule.
        max_size_mb: of the weights' file, in 10^6 bytes; None: no such rule.
        onnx: whether the version also holds an ONNX export, checked for equal detections.
    """

    model: str
    alias: str
    wanted: bool = True
    finalists: int = 3
    seeds: int = 1
    full_epochs: int | None = None
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    min_value: float | None = None
    min_gain: float = 0.0
    max_class_loss: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    onnx: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The rules that are not at their default: specs of an earlier version keep their hash."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """Everything that decides a study; workers run what is stored, not what a file says now.

    Attributes:
        study: the study's name.
        trainer: entry point of the trainer.
        model: weights or architecture.
        data: a built-in dataset's name, or the absolute path of a data YAML; None where the
            trainer needs none.
        space: what may vary.
        seed: of the sampler and of every training.
        train: fixed training arguments.
        baselines: parameters of the trials that run first, every searched one filled in.
    """

    study: str
    trainer: str
    model: str
    data: str | None
    space: SearchSpace
    objective: Objective
    budget: Budget
    sampler: Choice
    pruner: Choice
    seed: int
    train: dict[str, Any]
    baselines: tuple[dict[str, Any], ...]
    promotion: Promotion

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-able values; `from_dict` gives an equal spec back."""
        plain = {
            name: getattr(self, name)
            for name in ("study", "trainer", "model", "data", "seed", "train")
        }
        nested = {
            name: asdict(getattr(self, name))
            for name in ("objective", "budget", "sampler", "pruner")
        }
        nested["promotion"] = self.promotion.to_dict()
        return plain | nested | {"space": self.space.to_dict(), "baselines": list(self.baselines)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StudySpec:
        """The spec that `to_dict` was made of; it is trusted to have been checked."""
        return cls(
            study=values["study"],
            trainer=values["trainer"],
            model=values["model"],
            data=values["data"],
            space=SearchSpace.from_dict(values["space"]),
            objective=Objective(**values["objective"]),
            budget=Budget(**values["budget"]),
            sampler=Choice(**values["sampler"]),
            pruner=Choice(**values["pruner"]),
            seed=values["seed"],
            train=values["train"],
            baselines=tuple(values["baselines"]),
            promotion=Promotion(**values["promotion"]),
        )

    def canonical(self) -> str:
        """One JSON text for all equal specs, whatever wrote the numbers and ordered the keys."""
        plain = _plain_numbers(self.to_dict())
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def sha256(self) -> str:
        """Hex digest of the canonical text."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def differences(stored: StudySpec, given: StudySpec) -> list[str]:
    """One line for each value that differs: `key.path: stored -> given`."""
    left, right = (_flat(_plain_numbers(spec.to_dict())) for spec in (stored, given))
    lines = []
    keys = sorted(left.keys() | right.keys())
    for key in keys:
        a, b = left.get(key, "(absent)"), right.get(key, "(absent)")
        filled = any(other.startswith(f"{key}.") for other in keys)  # an empty one on one side only
        if a != b and not filled:
            lines.append(f"{key}: {a} -> {b}")
    return lines


def _plain_numbers(value: Any) -> Any:
    """Each number in one form: PostgreSQL's jsonb gives 1e+16 back as a whole number."""
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_numbers(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if isinstance(value, int) and _EXACT < abs(value) <= _LARGEST:
        return float(value)
    return value


_EXACT = 2**53  # whole numbers up to this are the same as int and as float
_LARGEST = sys.float_info.max  # a larger whole number is no float


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    items: list[tuple[Any, Any]]
    if isinstance(value, dict) and value:
        items = list(value.items())
    elif isinstance(value, list | tuple) and value:
        items = list(enumerate(value))
    else:
        return {path: value}  # an empty list or mapping is a value too
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{path}.{key}" if path else str(key))
    return flat
