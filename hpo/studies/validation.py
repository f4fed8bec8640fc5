"""Check a study's parts against each other, and read the key `promotion` of its file."""

from __future__ import annotations

import math
from dataclasses import fields as fields_of
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hpo.studies.fields import Fields
from hpo.studies.names import alias_fault, take_name
from hpo.studies.spec import LARGEST_INTEGER, Promotion
from hpo.trainer import DETECTION_METRICS, TrainSpec
from search_spaces.faults import SpaceFaults, shown

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.studies.spec import Budget, Choice, Objective, StudySpec
    from hpo.trainer import Trainer
    from search_spaces.space import SearchSpace


def check_choices(
    space: SearchSpace, sampler: Choice, pruner: Choice, budget: Budget, faults: list[str]
) -> None:
    """Check sampler and pruner against the search space and the budget."""
    epochs = next((item for item in space.parameters if item.name == "epochs"), None)
    if epochs is not None and pruner.name != "none":
        faults.append(
            f"pruner.name: '{pruner.name}' compares trials at equal epochs, but `epochs` is "
            "searched and schedules differ; use `none`"
        )
    if epochs is not None and epochs.when:
        faults.append("search_space.epochs: has a condition, but every trial needs its epochs")
    if sampler.name in ("grid", "qmc"):
        conditional = [item.name for item in space.parameters if item.when]
        if conditional:
            faults.append(
                f"sampler.name: '{sampler.name}' needs a space without conditions; "
                f"{', '.join(conditional)} exist only under one"
            )
    if sampler.name == "cmaes":
        _check_cmaes(faults)
    first = pruner.options.get("min_epochs", 1)
    if budget.epochs is not None and first > budget.epochs:
        faults.append(f"pruner.min_epochs: is {first}, at most budget.epochs={budget.epochs}")


def _check_cmaes(faults: list[str]) -> None:
    from importlib.util import find_spec

    if find_spec("cmaes") is None:
        faults.append("sampler.name: 'cmaes' needs the extra: `pip install 'hpo-service[cmaes]'`")


def check_against_trainer(
    spec: StudySpec, trainer: Trainer, data: Path | None, faults: list[str]
) -> None:
    """Check the whole spec with its trainer, and the number of trials against what must run."""
    if spec.sampler.name == "grid":
        _check_grid(spec, faults)
    elif len(spec.baselines) > spec.budget.trials:
        faults.append(
            f"budget.trials: is {spec.budget.trials}, but there are {len(spec.baselines)} "
            "baselines, which count too"
        )
    question = TrainSpec(
        model=spec.model,
        train=spec.train,
        searched=spec.space.bounds(),
        epochs=spec.budget.epochs,
        metric=spec.objective.metric,
        direction=spec.objective.direction,
        data=data,
    )
    # A dataset that could not be read was reported when it was: one fault, not two.
    faults.extend(
        fault for fault in trainer.check(question) if data or not fault.startswith("data:")
    )


def _check_grid(spec: StudySpec, faults: list[str]) -> None:
    try:
        size = spec.space.grid_size()
    except SpaceFaults as error:
        faults.extend(f"sampler.name: grid: {fault}" for fault in error.faults)
        return
    room = spec.budget.trials - len(spec.baselines)
    if room != size:
        total = size + len(spec.baselines)
        faults.append(
            f"budget.trials: is {spec.budget.trials}, but the grid has {size} points and there "
            f"are {len(spec.baselines)} baselines; set it to {total}"
        )


NONE = "none"
NO_PROMOTION = "`promotion: none` promotes nothing"
ONNX_PACKAGES = ("onnx", "onnxslim", "onnxruntime")
_RULES: dict[str, tuple[type, float | None, float | None]] = {  # kind, smallest, largest value
    "finalists": (int, 1, 20),
    "seeds": (int, 1, 10),
    "full_epochs": (int, 1, LARGEST_INTEGER),
    "confidence": (float, None, None),
    "resamples": (int, 100, 100_000),
    "seed": (int, 0, 2**32 - 1),
    "min_value": (float, -1, 1),  # -1: also a model that finds nothing
    "min_gain": (float, 0, 1),
    "max_class_loss": (float, 0, 1),
    "max_latency_ms": (float, None, None),
    "max_size_mb": (float, None, None),
    "onnx": (bool, None, None),
}


def read_promotion(top: Fields, study: str, *, epochs_searched: bool) -> Promotion:
    """What a study promotes and under which rules; `none` as the whole value promotes nothing.

    Args:
        top: the study file; faults are noted there.
        study: its name, which is the model's where none is given.
        epochs_searched: whether trials differ in their epochs.
    """
    raw = top.values.get("promotion")
    if raw == NONE:
        return Promotion(model=study, alias="champion", wanted=False)
    if isinstance(raw, str):
        top.fault("promotion", f"is {shown(raw)}, a mapping or `{NONE}` is expected")
        raw = None
    fields = Fields(raw, "promotion", top.faults, ("model", "alias", *_RULES))
    if fields.values.get("model") is None and ":" in study:
        fields.fault("model", f"is missing; the study's name {study!r} has ':', a model's must not")
    model = take_name(fields, "model", "", "/:") or study
    alias = fields.take("alias", str, "champion")
    if fault := alias_fault(alias):
        fields.fault("alias", fault)
    rules = _rules(fields)
    if epochs_searched and rules["full_epochs"] is not None:
        fields.fault("full_epochs", "is refused where the search space searches `epochs`; remove")
    return Promotion(model=model, alias=alias, **rules)


def _rules(fields: Fields) -> dict[str, Any]:
    defaults = {item.name: item.default for item in fields_of(Promotion)}
    rules = {
        name: fields.take(name, kind, defaults[name], low=low, high=high)
        for name, (kind, low, high) in _RULES.items()
    }
    # At 0.5 a coin decides; at 1 no gain is ever enough
    if not 0.5 < rules["confidence"] < 1:  # noqa: PLR2004 - a coin's
        said = shown(rules["confidence"])
        fields.fault("confidence", f"is {said}, above 0.5 and below 1 is expected, e.g. 0.95")
    # One of so many draws is as rare as what they can show
    elif rules["resamples"] < (least := math.ceil(round(1 / (1 - rules["confidence"]), 6)) - 1):
        said = f"at least {least} is expected at a confidence of {shown(rules['confidence'])}"
        fields.fault("resamples", f"is {rules['resamples']}, {said}")
    for name in ("max_latency_ms", "max_size_mb"):
        if rules[name] is not None and rules[name] <= 0:
            fields.fault(name, f"is {shown(rules[name])}, a number above 0 is expected")
    return rules


def check_promotion(
    promotion: Promotion, objective: Objective, trainer: Trainer, faults: list[str]
) -> None:
    """Check the promotion's rules against the objective and the trainer."""
    if not promotion.wanted:
        return
    if objective.metric not in DETECTION_METRICS:
        faults.append(
            f"objective.metric: '{objective.metric}' cannot be judged on held-out images, "
            f"{', '.join(DETECTION_METRICS)} can; take one of them, or {NO_PROMOTION}"
        )
    if promotion.onnx:
        _check_onnx(trainer, faults)


def _check_onnx(trainer: Trainer, faults: list[str]) -> None:
    if not hasattr(trainer, "export_onnx"):
        name = trainer.describe().name
        faults.append(f"promotion.onnx: the trainer '{name}' exports no model; remove it")
    elif missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        faults.append(
            f"promotion.onnx: needs {', '.join(missing)}: `pip install 'hpo-service[onnx]'`"
        )
