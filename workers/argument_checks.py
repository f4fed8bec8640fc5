"""Fixed and searched values against a trainer's described arguments; knows no one trainer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpo.trainer import Argument, Description, TrainSpec


def argument_faults(
    description: Description, spec: TrainSpec, owned: Mapping[str, str]
) -> Iterator[str]:
    """Unknown arguments, arguments that are not the study's to set, and values out of bounds.

    Args:
        description: the trainer's arguments and metrics.
        spec: what is asked.
        owned: arguments that the service sets itself -> what to use instead.

    Yields:
        one sentence each, starting with the key it speaks of.
    """
    for name, value in spec.train.items():
        key = f"train.{name}"
        if name in owned:
            yield f"{key}: {owned[name]}"
        elif name not in description.arguments:
            yield f"{key}: unknown argument{did_you_mean(name, description.arguments)}"
        elif fault := value_fault(description.arguments[name], value):
            yield f"{key}: {fault}"
    for name, values in spec.searched.items():
        key = f"search_space.{name}"
        if name in spec.train:
            yield f"{key}: it is fixed under `train:` too; keep one of the two"
        if name in owned and name not in description.arguments:
            yield f"{key}: {owned[name]}"
        elif name not in description.arguments:
            yield f"{key}: unknown argument{did_you_mean(name, description.arguments)}"
        else:
            faults = (value_fault(description.arguments[name], value) for value in values)
            yield from (f"{key}: {fault}" for fault in faults if fault)


def objective_faults(description: Description, spec: TrainSpec) -> Iterator[str]:
    """An unknown metric, or a direction that contradicts it."""
    known = description.metrics
    if spec.metric not in known:
        yield f"objective.metric: unknown metric '{spec.metric}' (known: {', '.join(known)})"
    elif spec.direction != known[spec.metric]:
        yield (
            f"objective.direction: {spec.metric} is better when "
            f"{'larger' if known[spec.metric] == 'maximize' else 'smaller'}: "
            f"use {known[spec.metric]}, not {spec.direction}"
        )


def value_fault(argument: Argument, value: Any) -> str:
    """What is wrong with a value, or ""."""
    if argument.choices and value not in argument.choices:
        return f"{value!r} is not one of {', '.join(map(repr, argument.choices))}"
    if argument.choices:
        return ""
    if not _is_a(argument.kind, value):
        return f"{value!r} is not {_A[argument.kind]}"
    if argument.low is not None and value < argument.low:
        return f"{value} is below the smallest value {argument.low:g}"
    if argument.high is not None and value > argument.high:
        return f"{value} is above the largest value {argument.high:g}"
    return ""


_A = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
}


def _is_a(kind: str, value: Any) -> bool:
    match kind:
        case "bool":
            return isinstance(value, bool)
        case "str":
            return isinstance(value, str)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case _:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return number and math.isfinite(value)
