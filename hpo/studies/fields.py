"""Take typed values out of a parsed study file and collect every fault."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any

from search_spaces.faults import shown
from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_UNIT_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _UNIT_S))
_LONGEST_S = 3650 * 86400.0  # ten years: PostgreSQL's intervals and times end somewhere beyond
_LARGEST = sys.float_info.max  # a larger whole number is no float
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def seconds(value: Any) -> float | None:
    """Seconds of `90`, `45s`, `2h` or `1h30m`; None when it is none from above 0 to 3650 days."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip()
    try:
        total = float(text)
    except ValueError:
        match = _DURATION.fullmatch(text)
        parts = zip(match.groups(), _UNIT_S.values(), strict=True) if match else ()
        total = sum(float(number) * unit_s for number, unit_s in parts if number)
    return total if 0 < total <= _LONGEST_S else None


class Fields:
    """One mapping of a study file, at `path`; faults go into the list shared by all of them."""

    def __init__(
        self, values: Any, path: str, faults: list[str], known: Iterable[str] | None
    ) -> None:
        """Note each unknown key; `known` None lets the values' own reader judge them."""
        self.path, self.faults = path, faults
        if values is None:
            values = {}
        if not isinstance(values, dict):
            self.fault("", f"is {shown(values)}, a mapping is expected")
            values = {}
        self.values: dict[str, Any] = values
        names = None if known is None else list(known)
        for key in values:
            if not isinstance(key, str):
                # YAML reads the unquoted keys on, off, yes and no as true and false
                self.fault("", f"the key {shown(key)} is no text: quote it")
            elif names is not None and key not in names:
                self.fault(key, f"unknown key{did_you_mean(key, names)}")

    def fault(self, key: str, text: str) -> None:
        """Note a fault of `key`."""
        where = ".".join(part for part in (self.path, key) if part) or "study file"
        self.faults.append(f"{where}: {text}")

    def take(
        self,
        key: str,
        kind: type,
        default: Any = None,
        *,
        required: str = "",
        low: float | None = None,
        high: float | None = None,
        choices: Iterable[Any] = (),
    ) -> Any:
        """The checked value of `key`, or the default.

        Args:
            key: the key.
            kind: int, float, str or bool; a whole number is a fine float.
            default: where the key is absent or null.
            required: what to write when the key must be there.
            low: smallest value accepted.
            high: largest value accepted.
            choices: the values accepted.
        """
        value = self.values.get(key)
        if value is None:
            if required:
                self.fault(key, f"is missing; {required}")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) <= _LARGEST else math.inf
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fault(key, f"is {shown(value)}, {_WORDS[kind]} is expected")
            return default
        if not self._within(key, value, low, high):
            return default
        choices = list(choices)
        if choices and value not in choices:
            self.fault(key, f"'{value}' is unknown{did_you_mean(str(value), map(str, choices))}")
            return default
        return value

    def _within(self, key: str, value: Any, low: float | None, high: float | None) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            self.fault(key, f"is {value}, a finite number is expected")
            return False
        if low is not None and value < low:
            self.fault(key, f"is {shown(value)}, at least {low:.12g} is expected")
            return False
        if high is not None and value > high:
            self.fault(key, f"is {shown(value)}, at most {high:.12g} is expected")
            return False
        return True


def set_path(values: dict[str, Any], path: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings, making those that are missing."""
    *parents, last = path.split(".")
    for name in parents:
        inner = values.get(name)
        if not isinstance(inner, dict):
            inner = values[name] = {}
        values = inner
    values[last] = value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` in it, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = (
            merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return result
