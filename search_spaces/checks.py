"""Find everything that is wrong with a space's document, in words."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from search_spaces.faults import shown
from search_spaces.names import did_you_mean
from search_spaces.parameter import LARGEST_INT, decimal, number_fault, same

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

KEYS = ("name", "description", "trainer", "parameters")
# type -> (keys it needs, keys it may have)
TYPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "float": (("low", "high"), ("log", "step")),
    "int": (("low", "high"), ("log", "step")),
    "categorical": (("choices",), ()),
    "fixed": (("value",), ()),
}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # what `key=value` and MLflow can hold


def faults_of(document: Any) -> list[str]:
    """All faults of a space's document, each a sentence that starts with its key; [] for none."""
    if not isinstance(document, dict):
        return [f"the file: expected a mapping with {', '.join(KEYS)}, got {shown(document)}"]
    faults = [*_unknown("", document, KEYS), *_missing("", document, KEYS)]
    faults += [
        f"{key}: expected a line of text, got {shown(document[key])}"
        for key in ("name", "description", "trainer")
        if key in document and not _is_text(document[key])
    ]
    if "parameters" in document:
        faults += _parameters(document["parameters"])
    return faults


def _parameters(parameters: Any) -> Iterator[str]:
    if not isinstance(parameters, dict) or not parameters:
        yield f"parameters: expected a mapping from names to their ranges, got {shown(parameters)}"
        return
    for name, keys in parameters.items():
        path = f"parameters.{name}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            # YAML reads unquoted on, off, yes and no as booleans: a key can be no text at all
            yield (
                f"parameters: a name has letters, digits, '_', '-' and '.' and starts with a "
                f"letter or '_', got {shown(name)}"
            )
        if isinstance(keys, dict):
            yield from _parameter(path, keys)
            yield from _when(path, name, parameters)
        else:
            yield f"{path}: expected a mapping with its type and range, got {shown(keys)}"
    if all(isinstance(keys, dict) and keys.get("type") == "fixed" for keys in parameters.values()):
        yield "parameters: nothing to search, every one has type fixed"


def _parameter(path: str, keys: Mapping[Any, Any]) -> Iterator[str]:
    kind = keys.get("type")
    if "type" not in keys:
        yield f"{path}.type: missing, expected one of {', '.join(TYPES)}"
    elif not isinstance(kind, str) or kind not in TYPES:
        yield f"{path}.type: no such type {shown(kind)}{did_you_mean(str(kind), TYPES)}"
    else:
        needed, allowed = TYPES[kind]
        yield from _unknown(f"{path}.", keys, ("type", *needed, *allowed, "when"))
        yield from _missing(f"{path}.", keys, needed)
        if kind == "categorical":
            yield from _choices(path, keys)
        elif kind == "fixed":
            yield from _scalar(f"{path}.value", keys.get("value"))
        else:
            yield from _range(path, kind, keys)


def _choices(path: str, keys: Mapping[Any, Any]) -> Iterator[str]:
    if "choices" not in keys:
        return
    choices = keys["choices"]
    if not isinstance(choices, list):
        yield f"{path}.choices: expected a list, got {shown(choices)}"
    elif not choices:
        yield f"{path}.choices: is empty, expected at least two values"
    elif len(choices) == 1:
        yield f"{path}.choices: has one value only, {shown(choices[0])}: use type fixed"
    else:
        for index, choice in enumerate(choices):
            yield from _scalar(f"{path}.choices[{index}]", choice)
            # Plain equality, as Optuna finds a choice by it: True and 1 would be one choice
            if choice in choices[:index]:
                first = choices[choices.index(choice)]
                like = "twice" if same(first, choice) else f"beside its equal {first!r}"
                yield f"{path}.choices[{index}]: {shown(choice)} stands there {like}"


def _range(path: str, kind: str, keys: Mapping[Any, Any]) -> Iterator[str]:
    """Faults of low, high, log and step, first each alone, then together."""
    wrong = {key: _number(kind, keys[key]) for key in ("low", "high", "step") if key in keys}
    yield from (f"{path}.{key}: {fault}" for key, fault in wrong.items() if fault)
    if not isinstance(keys.get("log", False), bool):
        yield f"{path}.log: expected true or false, got {shown(keys['log'])}"
    log = keys.get("log") is True
    if log and "step" in keys:
        yield f"{path}.step: cannot go with log: Optuna has no logarithmic grid, leave one out"
    if "low" in keys and "high" in keys and not any(wrong.values()):
        yield from _together(path, keys["low"], keys["high"], None if log else keys.get("step"))
    if log and wrong.get("low") == "" and keys["low"] <= 0:
        yield f"{path}.low: {keys['low']!r} has no logarithm, expected a number above 0"


def _together(path: str, low: float, high: float, step: float | None) -> Iterator[str]:
    if low > high:
        yield f"{path}.low: {low!r} is above high, {high!r}: exchange them"
    elif low == high:
        yield f"{path}.low: {low!r} equals high, the range is empty: use type fixed"
    elif not math.isfinite(float(high) - float(low)):
        yield f"{path}.high: {high!r} is too far from low, {low!r}"
    elif step is not None:
        yield from _step(path, low, high, step)


def _step(path: str, low: float, high: float, step: float) -> Iterator[str]:
    if step <= 0:
        yield f"{path}.step: {step!r} is not above 0"
    elif (high - low) / step > LARGEST_INT:
        yield f"{path}.step: {step!r} is too small for the range from {low!r} to {high!r}"
    elif decimal(step) > decimal(high) - decimal(low):
        yield f"{path}.step: {step!r} is larger than the range from {low!r} to {high!r}"
    elif rest := (decimal(high) - decimal(low)) % decimal(step):
        # Optuna would only warn, and search up to a value that nobody wrote
        reached = (decimal(high) - rest).normalize()
        yield (
            f"{path}.step: {step!r} does not divide the range from {low!r} to {high!r}; "
            f"the highest value reached is {reached:f}: make that high"
        )


def _when(path: str, name: Any, parameters: Mapping[Any, Any]) -> Iterator[str]:
    """Faults of the condition of the parameter `name`."""
    if "when" not in parameters[name]:
        return
    when = parameters[name]["when"]
    if not isinstance(when, dict) or not when:
        yield f"{path}.when: expected a parameter and its value, as in {{a: 1}}, got {shown(when)}"
        return
    names = list(parameters)
    earlier = names[: names.index(name)]
    sound = True
    for parent, values in when.items():
        if parent not in parameters:
            fault = f"there is no such parameter{did_you_mean(str(parent), map(str, earlier))}"
        elif parent not in earlier:
            # Order alone rules out circles, and lets Optuna be asked in one pass
            fault = "is not listed before it: conditions look at earlier parameters only"
        else:
            fault = _parent_fault(parameters[parent], values)
        if fault:
            sound = False
            yield f"{path}.when.{parent}: {fault}"
    if sound and _contradicts(name, parameters):
        yield f"{path}.when: never holds: it and the conditions of its parents exclude each other"


def _parent_fault(parent: Any, values: Any) -> str:
    """Why `parent` can never have one of the `values`; "" where it can or is itself faulty."""
    if not isinstance(parent, dict) or any(_parameter("", parent)):
        return ""
    if parent["type"] == "float":
        return "is a float: conditions need a categorical, int or fixed parameter"
    if values == []:
        return "has no values, so the parameter would never exist"
    for value in _listed(values):
        if parent["type"] == "int":
            low, high, step = parent["low"], parent["high"], parent.get("step", 1)
            fits = not _number("int", value) and low <= value <= high and not (value - low) % step
            known = f"{low} to {high}" + (f" by {step}" if step != 1 else "")
        else:
            choices = parent["choices"] if "choices" in parent else [parent["value"]]
            fits = any(same(value, choice) for choice in choices)
            known = ", ".join(repr(choice) for choice in choices)
        if not fits:
            return f"can never be {shown(value)}, only {known}"
    return ""


def _contradicts(name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether the conditions of `name` and of its parents ask one parameter for two values."""
    names = list(parameters)
    lineage = {name}
    allowed: dict[str, list[Any]] = {}
    for child in reversed(names[: names.index(name) + 1]):
        keys = parameters[child]
        when = keys.get("when") if isinstance(keys, dict) else None
        if child not in lineage or not isinstance(when, dict):
            continue
        for parent, values in when.items():
            before = allowed.get(parent, _listed(values))
            allowed[parent] = [v for v in before if any(same(v, w) for w in _listed(values))]
            lineage.add(parent)
    return not all(allowed.values())


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _number(kind: str, value: Any) -> str:
    """Why `value` is no number of a `kind` parameter; "" when it is one."""
    if fault := number_fault(value):
        return f"{fault}, expected {'a whole number' if kind == 'int' else 'a number'}"
    if kind == "int" and not isinstance(value, int):
        return f"{value!r} is no whole number (type float has fractions)"
    return ""


def _scalar(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: {value!r} is no finite number"
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        yield f"{path}: expected text, a number, true, false or null, got {shown(value)}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\n" not in value.strip()


def _unknown(prefix: str, keys: Mapping[Any, Any], known: Collection[str]) -> list[str]:
    return [
        f"{prefix}{key}: unknown key{did_you_mean(str(key), known)}"
        for key in keys
        if key not in known
    ]


def _missing(prefix: str, keys: Mapping[Any, Any], needed: Collection[str]) -> list[str]:
    return [f"{prefix}{key}: missing" for key in needed if key not in keys]
