"""Takes typed values out of a parsed study file and collects every fault; knows no study."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_UNIT_S = (86400.0, 3600.0, 60.0, 1.0)
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def seconds(value: Any) -> float | None:
    """Seconds of `90`, `45s`, `2h` or `1h30m`; None when it is no duration above zero."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        total = float(value)
    else:
        match = _DURATION.fullmatch(str(value).strip()) if value else None
        if match is None:
            return None
        parts = zip(match.groups(), _UNIT_S, strict=True)
        total = sum(float(number) * unit for number, unit in parts if number)
    return total if 0 < total < math.inf else None


class Fields:
    """One mapping of a study file, at `path`; faults go into the list shared by all of them."""

    def __init__(self, values: Any, path: str, faults: list[str], known: Iterable[str]) -> None:
        self.path, self.faults = path, faults
        if values is None:
            values = {}
        if not isinstance(values, dict):
            self.fault("", f"is {values!r}, a mapping is expected")
            values = {}
        self.values: dict[str, Any] = values
        known = list(known)
        for key in values:
            if key not in known:
                self.fault(str(key), f"unknown key{did_you_mean(key, known)}")

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
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fault(key, f"is {value!r}, {_WORDS[kind]} is expected")
            return default
        if not self._within(key, value, low, high):
            return default
        choices = list(choices)
        if choices and value not in choices:
            self.fault(key, f"'{value}' is unknown{did_you_mean(value, choices)}")
            return default
        return value

    def _within(self, key: str, value: Any, low: float | None, high: float | None) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            self.fault(key, f"is {value}, a finite number is expected")
            return False
        if low is not None and value < low:
            self.fault(key, f"is {value}, at least {low:g} is expected")
            return False
        if high is not None and value > high:
            self.fault(key, f"is {value}, at most {high:g} is expected")
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
