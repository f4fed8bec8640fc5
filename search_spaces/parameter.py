"""One parameter of a search space: its values, its condition and its Optuna distribution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, cast

from search_spaces.faults import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.trial import BaseTrial

LARGEST_INT = 2**53

Choice = bool | int | float | str | None


def same(one: object, other: object) -> bool:
    """Whether two plain values are equal; unlike `==`, True is not 1 here."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """What all parameters have.

    Attributes:
        name: the trainer's argument.
        when: (parent, values) pairs; the parameter exists only where each parent has one of
            its values. () for one that always exists.
    """

    kind: ClassVar[str]
    name: str
    when: tuple[tuple[str, tuple[Choice, ...]], ...] = ()

    def exists(self, values: Mapping[str, Any]) -> bool:
        """Whether the parameter exists beside the parents' `values`; an absent one is not met."""
        return all(
            parent in values and any(same(values[parent], value) for value in allowed)
            for parent, allowed in self.when
        )

    @abstractmethod
    def bounds(self) -> tuple[Any, ...]:
        """(low, high) of a number, the choices of a categorical, (value,) of a fixed one."""

    @abstractmethod
    def accept(self, value: object) -> Any:
        """`value` as the parameter holds it (3 for an int's 3.0).

        Raises:
            ValueError: it can never take that value; the message goes after "NAME: ".
        """

    @abstractmethod
    def own_keys(self) -> dict[str, Any]:
        """What the YAML says beside type and condition, without what is default."""

    def to_dict(self) -> dict[str, Any]:
        """The form a space file has, every condition's values as a list."""
        when = {"when": {parent: list(values) for parent, values in self.when}} if self.when else {}
        return {"name": self.name, "type": self.kind, **self.own_keys(), **when}


@dataclass(frozen=True, kw_only=True)
class FixedParameter(Parameter):
    """One value: handed to the trainer, never searched and unknown to Optuna."""

    kind: ClassVar[str] = "fixed"
    value: Choice

    def bounds(self) -> tuple[Any, ...]:
        return (self.value,)

    def accept(self, value: object) -> Any:
        if not same(value, self.value):
            raise ValueError(f"{shown(value)} is given, but the space fixes it to {self.value!r}")
        return self.value

    def own_keys(self) -> dict[str, Any]:
        return {"value": self.value}


class SearchedParameter(Parameter):
    """A parameter that Optuna chooses."""

    @abstractmethod
    def distribution(self) -> BaseDistribution:
        """Optuna's distribution of the parameter."""

    @abstractmethod
    def suggest(self, trial: BaseTrial) -> Any:
        """The trial's value of the parameter."""

    @abstractmethod
    def size(self) -> int | None:
        """How many values the parameter has; None for a continuous one."""

    @abstractmethod
    def points(self) -> Sequence[Any]:
        """All values of the parameter in order, () for a continuous one."""


@dataclass(frozen=True, kw_only=True)
class NumberParameter(SearchedParameter):
    """A number between `low` and `high`, both included; `log` searches its logarithm."""

    low: float
    high: float
    log: bool = False

    @property
    @abstractmethod
    def grid_step(self) -> float | None:
        """The distance between two values, None where it is a continuum."""

    def bounds(self) -> tuple[float, float]:
        return (self.low, self.high)

    def own_keys(self) -> dict[str, Any]:
        log = {"log": True} if self.log else {}
        step = {} if self.grid_step is None else {"step": self.grid_step}
        return {"low": self.low, "high": self.high, **log, **step}

    def inside(self, number: float) -> None:
        """Raise ValueError, saying why, where `number` is none of the parameter's values."""
        # Optuna's own test decides, so that what passes here can be stored and read back
        if self.distribution()._contains(float(number)):  # noqa: SLF001 - no public way to ask it
            return
        if not self.low <= number <= self.high:
            raise ValueError(f"{number!r} lies outside {self.low!r} to {self.high!r}")
        raise ValueError(f"{number!r} is not on the grid from {self.low!r} by {self.grid_step!r}")


@dataclass(frozen=True, kw_only=True)
class FloatParameter(NumberParameter):
    """A float; with `step` only every `step` from `low` on."""

    kind: ClassVar[str] = "float"
    step: float | None = None

    @property
    def grid_step(self) -> float | None:
        return self.step

    def distribution(self) -> FloatDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: BaseTrial) -> float:
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def size(self) -> int | None:
        if self.step is None:
            return None
        return int((decimal(self.high) - decimal(self.low)) / decimal(self.step)) + 1

    def points(self) -> list[float]:
        low, step = decimal(self.low), decimal(self.step or 0)
        return [float(low + index * step) for index in range(self.size() or 0)]

    def accept(self, value: object) -> float:
        if fault := number_fault(value):
            raise ValueError(fault)
        number = float(cast("float", value))
        self.inside(number)
        return number


@dataclass(frozen=True, kw_only=True)
class IntParameter(NumberParameter):
    """A whole number; every `step`-th from `low` on."""

    kind: ClassVar[str] = "int"
    low: int
    high: int
    step: int = 1

    @property
    def grid_step(self) -> int | None:
        return None if self.step == 1 else self.step

    def distribution(self) -> IntDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: BaseTrial) -> int:
        return trial.suggest_int(self.name, self.low, self.high, step=self.step, log=self.log)

    def size(self) -> int:
        return len(self.points())

    def points(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def accept(self, value: object) -> int:
        if fault := number_fault(value):
            raise ValueError(fault)
        number = cast("float", value)
        if number != int(number):
            raise ValueError(f"{number!r} is no whole number")
        self.inside(int(number))
        return int(number)


@dataclass(frozen=True, kw_only=True)
class CategoricalParameter(SearchedParameter):
    """One of `choices`; their order means nothing."""

    kind: ClassVar[str] = "categorical"
    choices: tuple[Choice, ...]

    def distribution(self) -> CategoricalDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def suggest(self, trial: BaseTrial) -> Choice:
        choice: Choice = trial.suggest_categorical(self.name, self.choices)
        return choice

    def bounds(self) -> tuple[Choice, ...]:
        return self.choices

    def size(self) -> int:
        return len(self.choices)

    def points(self) -> tuple[Choice, ...]:
        return self.choices

    def accept(self, value: object) -> Choice:
        for choice in self.choices:
            if same(choice, value):
                return choice
        raise ValueError(f"{shown(value)} is none of {', '.join(map(repr, self.choices))}")

    def own_keys(self) -> dict[str, Any]:
        return {"choices": list(self.choices)}


def decimal(number: float) -> Decimal:
    """The number that was written: in binary 0.98 - 0.8 is no multiple of 0.01."""
    return Decimal(str(number))


def number_fault(value: object) -> str:
    """Why `value` is no finite number that a double holds exactly; "" when it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{shown(value)} is no number"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value!r} is no finite number"
    # Optuna stores every number as a double
    return "" if abs(value) <= LARGEST_INT else f"{shown(value)} is too large to be stored exactly"
