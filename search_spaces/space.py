"""A search space: parameters in order, and what follows from their conditions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from search_spaces.checks import faults_of
from search_spaces.faults import SpaceFaults
from search_spaces.names import did_you_mean
from search_spaces.parameter import (
    CategoricalParameter,
    FixedParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    SearchedParameter,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial


@dataclass(frozen=True)
class SearchSpace:
    """What may vary in a study. Parents stand before the parameters that depend on them.

    Attributes:
        name: what a study file calls it.
        description: one line.
        trainer: the trainer whose arguments its parameters are.
        parameters: in the order of the file, which is the order of suggestion.
    """

    name: str
    description: str
    trainer: str
    parameters: tuple[Parameter, ...]

    @classmethod
    def from_dict(cls, document: Any, what: str = "search space") -> SearchSpace:
        """The space that `document` describes, in the form of a space file or of `to_dict`.

        Raises:
            SpaceFaults: everything wrong with it, under the name `what`.
        """
        document = _by_name(document)
        if faults := faults_of(document):
            raise SpaceFaults(what, faults)
        parameters = tuple(_parameter(name, keys) for name, keys in document["parameters"].items())
        return cls(document["name"], document["description"], document["trainer"], parameters)

    def to_dict(self) -> dict[str, Any]:
        """The space as JSON holds it. Parameters are a list: JSON stores may reorder mappings."""
        return {
            "name": self.name,
            "description": self.description,
            "trainer": self.trainer,
            "parameters": [parameter.to_dict() for parameter in self.parameters],
        }

    @property
    def searched(self) -> tuple[SearchedParameter, ...]:
        """The parameters that Optuna chooses."""
        return tuple(one for one in self.parameters if isinstance(one, SearchedParameter))

    def is_searched(self, name: str) -> bool:
        """Whether Optuna chooses the parameter `name`."""
        return any(parameter.name == name for parameter in self.searched)

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """The trial's value of every parameter that exists in it, fixed ones included."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if not parameter.exists(values):
                continue
            if isinstance(parameter, SearchedParameter):
                values[parameter.name] = parameter.suggest(trial)
            else:
                values[parameter.name] = parameter.bounds()[0]
        return values

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every searched parameter, conditional ones included."""
        return {parameter.name: parameter.distribution() for parameter in self.searched}

    def active(self, values: Mapping[str, Any]) -> list[str]:
        """Names of the searched parameters that exist beside `values`, in order."""
        existing = dict(values)
        names = []
        for parameter in self.parameters:
            if not parameter.exists(existing):
                existing.pop(parameter.name, None)  # so that its own children do not exist either
            elif isinstance(parameter, SearchedParameter):
                names.append(parameter.name)
            else:
                existing[parameter.name] = parameter.bounds()[0]
        return names

    def with_fixed(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The searched values `params` and the fixed ones that exist beside them, in order."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.name in params:
                values[parameter.name] = params[parameter.name]
            elif parameter.exists(values) and isinstance(parameter, FixedParameter):
                values[parameter.name] = parameter.value
        return values

    def complete(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Every searched parameter that exists beside `values`, the missing ones by `defaults`.

        Raises:
            SpaceFaults: a value that is unknown, does not exist beside the others, or that its
                parameter cannot take; a default that is missing or that the range leaves out.
        """
        known = [parameter.name for parameter in self.parameters]
        faults = [
            f"{name}: the search space has no such parameter{did_you_mean(name, known)}"
            for name in values
            if name not in known
        ]
        found: dict[str, Any] = {}  # fixed ones too, as children may depend on them
        unsure: set[str] = set()  # faulty ones: whether their children exist is not known
        for parameter in self.parameters:
            name = parameter.name
            if unsure.intersection(parent for parent, _ in parameter.when):
                unsure.add(name)
            elif not parameter.exists(found):
                if name in values:
                    faults.append(f"{name}: exists only where {condition(parameter)}")
            else:
                try:
                    found[name] = _value(parameter, values, defaults)
                except ValueError as error:
                    faults.append(f"{name}: {error}")
                    unsure.add(name)
        if faults:
            raise SpaceFaults(self.name, faults)
        return {name: value for name, value in found.items() if self.is_searched(name)}

    def grid_size(self) -> int:
        """How many points a full grid has.

        Raises:
            SpaceFaults: a parameter is continuous or conditional.
        """
        sizes = {parameter.name: parameter.size() for parameter in self.searched}
        faults = [
            f"parameters.{name}: is continuous, a grid needs a step: add `step`"
            for name, size in sizes.items()
            if size is None
        ]
        faults += [
            f"parameters.{parameter.name}.when: a grid cannot have a parameter with a condition"
            for parameter in self.searched
            if parameter.when
        ]
        if faults:
            raise SpaceFaults(self.name, faults)
        return prod(size for size in sizes.values() if size is not None)

    def grid(self) -> dict[str, list[Any]]:
        """All values of every searched parameter, for Optuna's GridSampler.

        Raises:
            SpaceFaults: a parameter is continuous or conditional.
        """
        self.grid_size()
        return {parameter.name: list(parameter.points()) for parameter in self.searched}

    def bounds(self) -> dict[str, tuple[Any, ...]]:
        """(low, high) of each number, choices of each categorical, (value,) of each fixed one."""
        return {parameter.name: parameter.bounds() for parameter in self.parameters}


def condition(parameter: Parameter) -> str:
    """When the parameter exists, in words; "" for one that always does."""
    return " and ".join(
        f"{parent} is {' or '.join(str(value) for value in values)}"
        for parent, values in parameter.when
    )


def _value(parameter: Parameter, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    if isinstance(parameter, FixedParameter):
        return parameter.accept(values.get(parameter.name, parameter.value))
    if parameter.name in values:
        try:
            return parameter.accept(values[parameter.name])
        except ValueError as error:
            raise ValueError(f"{error}: give another value or widen the range") from None
    if parameter.name not in defaults:
        raise ValueError("the trainer has no default for it: give it explicitly")
    try:
        return parameter.accept(defaults[parameter.name])
    except ValueError as error:
        message = f"the trainer's default {error}: give it explicitly or widen the range"
        raise ValueError(message) from None


def _by_name(document: Any) -> Any:
    """The list of parameters of `to_dict` as the mapping of a file; anything else as it is."""
    if not isinstance(document, dict) or not isinstance(document.get("parameters"), list):
        return document
    parameters = {}
    for item in document["parameters"]:
        if not isinstance(item, dict) or "name" not in item:
            return document  # the checks say what is wrong with it
        parameters[item["name"]] = {key: value for key, value in item.items() if key != "name"}
    return {**document, "parameters": parameters}


def _parameter(name: str, keys: Mapping[str, Any]) -> Parameter:
    """The parameter of checked `keys`."""
    # Sorted, as the order of conditions means nothing and JSON stores do not keep it
    when = tuple(
        (parent, tuple(allowed) if isinstance(allowed, list) else (allowed,))
        for parent, allowed in sorted(keys.get("when", {}).items())
    )
    match keys["type"]:
        case "float":
            step = keys.get("step")
            return FloatParameter(
                name=name,
                when=when,
                low=float(keys["low"]),
                high=float(keys["high"]),
                log=keys.get("log", False),
                step=None if step is None else float(step),
            )
        case "int":
            given = {key: keys[key] for key in ("low", "high", "log", "step") if key in keys}
            return IntParameter(name=name, when=when, **given)
        case "categorical":
            return CategoricalParameter(name=name, when=when, choices=tuple(keys["choices"]))
        case _:
            return FixedParameter(name=name, when=when, value=keys["value"])
