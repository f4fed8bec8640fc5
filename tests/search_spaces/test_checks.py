"""Everything wrong with a space's document is found, at once, under its own key."""

from __future__ import annotations

import json
import math
import pickle
import random
from typing import Any

import optuna
import pytest

from search_spaces.faults import SpaceFaults
from search_spaces.space import SearchSpace

X = {"type": "float", "low": 0.0, "high": 1.0}
KIND = {"type": "categorical", "choices": ["a", "b"]}


def space(parameters: Any, **keys: Any) -> dict[str, Any]:
    return {"name": "n", "description": "d", "trainer": "t", "parameters": parameters, **keys}


def faults(document: Any) -> tuple[str, ...]:
    with pytest.raises(SpaceFaults) as caught:
        SearchSpace.from_dict(document)
    return caught.value.faults


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "type: missing, expected one of float, int, categorical, fixed"),
        ({"type": "flaot"}, "type: no such type 'flaot' (did you mean 'float'?)"),
        ({"type": ["float"]}, "type: no such type ['float'] (did you mean 'float'?)"),
        ({**X, "hihg": 2}, "hihg: unknown key (did you mean 'high'?)"),
        ({"type": "float", "high": 1.0}, "low: missing"),
        ({"type": "categorical"}, "choices: missing"),
        ({"type": "fixed"}, "value: missing"),
        ({**X, "low": "0"}, "low: '0' is no number, expected a number"),
        ({**X, "low": True}, "low: True is no number"),
        ({**X, "low": None}, "low: None is no number"),
        ({**X, "high": math.inf}, "high: inf is no finite number"),
        ({**X, "high": math.nan}, "high: nan is no finite number"),
        ({**X, "high": 10**400}, "high: 1000000"),
        ({**X, "low": 2}, "low: 2 is above high, 1.0"),
        ({**X, "low": 1}, "low: 1 equals high, the range is empty: use type fixed"),
        ({**X, "low": -1.7e308, "high": 1.7e308}, "high: 1.7e+308 is too far from low"),
        ({**X, "log": True}, "low: 0.0 has no logarithm, expected a number above 0"),
        ({**X, "log": "yes"}, "log: expected true or false, got 'yes'"),
        ({**X, "low": 0.1, "log": True, "step": 0.1}, "step: cannot go with log"),
        ({**X, "step": 0}, "step: 0 is not above 0"),
        ({**X, "step": -0.1}, "step: -0.1 is not above 0"),
        ({**X, "step": 1.5}, "step: 1.5 is larger than the range from 0.0 to 1.0"),
        ({**X, "step": 0.3}, "the highest value reached is 0.9: make that high"),
        ({**X, "step": 1e-300}, "step: 1e-300 is too small for the range"),
        ({"type": "int", "low": 0, "high": 1.0}, "high: 1.0 is no whole number"),
        ({"type": "int", "low": 320, "high": 400, "step": 32}, "value reached is 384:"),
        ({"type": "int", "low": 0, "high": 4, "step": 0.5}, "step: 0.5 is no whole number"),
        ({"type": "int", "low": 0, "high": 4, "log": True}, "low: 0 has no logarithm"),
        ({"type": "categorical", "choices": "ab"}, "choices: expected a list, got 'ab'"),
        ({"type": "categorical", "choices": []}, "choices: is empty"),
        ({"type": "categorical", "choices": [3]}, "choices: has one value only, 3: use type fixed"),
        ({"type": "categorical", "choices": ["a", "b", "a"]}, "choices[2]: 'a' stands there twice"),
        ({"type": "categorical", "choices": [1, True]}, "choices[1]: True stands there beside"),
        ({"type": "categorical", "choices": [1, [2]]}, "choices[1]: expected text, a number"),
        ({"type": "fixed", "value": {"a": 1}}, "value: expected text, a number"),
        ({"type": "fixed", "value": math.nan}, "value: nan is no finite number"),
        ("0..1", "expected a mapping with its type and range, got '0..1'"),
    ],
)
def test_a_faulty_parameter_is_reported_under_its_key(keys: Any, expected: str) -> None:
    """One fault in one parameter gives one sentence: its key path, the value, what is expected."""
    found = faults(space({"p": keys, "sound": X}))
    assert len(found) == 1
    assert found[0].startswith("parameters.p")
    assert expected in found[0]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("kind", ".when: expected a parameter and its value"),
        ({}, ".when: expected a parameter and its value"),
        ({"kidn": "a"}, ".when.kidn: there is no such parameter (did you mean 'kind'?)"),
        ({"later": "a"}, ".when.later: is not listed before it"),
        ({"p": 1}, ".when.p: is not listed before it"),
        ({"kind": "c"}, ".when.kind: can never be 'c', only 'a', 'b'"),
        ({"kind": ["a", "c"]}, ".when.kind: can never be 'c'"),
        ({"kind": []}, ".when.kind: has no values"),
        ({"size": 5}, ".when.size: can never be 5, only 2 to 8 by 2"),
        ({"size": "2"}, ".when.size: can never be '2'"),
        ({"flag": 1}, ".when.flag: can never be 1, only True"),
        ({"x": 0.5}, ".when.x: is a float"),
        ({"child": 1, "kind": "a"}, ".when: never holds"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(when: Any, expected: str) -> None:
    """A parameter that could never exist would silently never be searched."""
    parameters = {
        "x": X,
        "kind": KIND,
        "size": {"type": "int", "low": 2, "high": 8, "step": 2},
        "flag": {"type": "fixed", "value": True},
        "child": {"type": "int", "low": 1, "high": 2, "when": {"kind": "b"}},
        "p": {**X, "when": when},
        "later": KIND,
    }
    found = faults(space(parameters))
    assert len(found) == 1
    assert found[0].startswith(f"parameters.p{expected}")


def test_a_faulty_parent_is_reported_once_and_not_through_its_children() -> None:
    """Children of a faulty parameter add no faults that are not theirs."""
    parameters = {"kind": {**KIND, "choices": []}, "p": {**X, "when": {"kind": "a"}}, "s": X}
    assert faults(space(parameters)) == (
        "parameters.kind.choices: is empty, expected at least two values",
    )


def test_conditions_in_a_circle_are_refused() -> None:
    """Two parameters that wait for each other are a fault, not a hang."""
    parameters = {"a": {**KIND, "when": {"b": "a"}}, "b": {**KIND, "when": {"a": "a"}}}
    assert len(faults(space(parameters))) == 1


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, "the file: expected a mapping with name, description, trainer, parameters"),
        (["a"], "the file: expected a mapping"),
        (space({"x": X}, naem="y"), "naem: unknown key (did you mean 'name'?)"),
        (space({"x": X}, name=3), "name: expected a line of text, got 3"),
        (space({"x": X}, trainer=" "), "trainer: expected a line of text, got ' '"),
        (space({"x": X}, description="a\nb"), "description: expected a line of text"),
        (space({}), "parameters: expected a mapping from names"),
        (space(None), "parameters: expected a mapping from names"),
        (space([X]), "parameters: expected a mapping from names"),
        (space({"": X}), "parameters: a name has letters"),
        (space({"a b": X}), "parameters: a name has letters"),
        (space({True: X}), "parameters: a name has letters"),
        (space({"x": {"type": "fixed", "value": 1}}), "parameters: nothing to search"),
    ],
)
def test_a_faulty_document_is_reported(document: Any, expected: str) -> None:
    """What is wrong beside the parameters gets one sentence, too."""
    found = faults(document)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_all_faults_are_reported_at_once() -> None:
    """A user mends a file in one go, not fault by fault."""
    parameters = {
        "lr0": {"type": "float", "low": 1, "high": 0.1, "log": "on", "setp": 2},
        "kind": {"type": "categorical", "choices": ["a", "a"]},
    }
    found = faults({"name": "", "trainer": "t", "parameters": parameters, "extra": 1})
    assert [fault.split(":")[0] for fault in found] == [
        "extra",
        "description",
        "name",
        "parameters.lr0.setp",
        "parameters.lr0.log",
        "parameters.lr0.low",
        "parameters.kind.choices[1]",
    ]


def test_the_error_survives_a_pickle() -> None:
    """Errors cross processes; what was wrong must arrive."""
    error = pickle.loads(pickle.dumps(SpaceFaults("f.yaml", ["a: b", "c: d"])))  # noqa: S301 - our own bytes
    assert (error.what, error.faults) == ("f.yaml", ("a: b", "c: d"))
    assert str(error) == "f.yaml: a: b; c: d"


def test_a_huge_value_does_not_flood_the_message() -> None:
    """A fault shows enough of a value to be found, not all of it."""
    assert all(len(fault) < 200 for fault in faults(space({"p": {**X, "low": "9" * 10_000}})))


def _odd(rng: random.Random, depth: int = 0) -> Any:
    """Any plain value, the nasty ones more often than they deserve."""
    plain = (None, True, False, 0, 1, -1, 2, 3, 8, 2**53, 10**400, 0.1, 0.5, 1.0, -0.0, 1e-300)
    nasty: tuple[Any, ...] = (
        1e300,
        math.inf,
        math.nan,
        "",
        "a",
        "float",
        "int",
        "when",
        "x",
        "kind",
        [],
        {},
    )
    kind = rng.random()
    if depth < 2 and kind < 0.1:
        return [_odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    if depth < 2 and kind < 0.2:
        return {rng.choice(("kind", "x", "a", 1, None)): _odd(rng, depth + 1)}
    return rng.choice((*plain, *nasty))


def _keys(rng: random.Random) -> Any:
    """A parameter, mostly of a known form, some of its values odd."""
    keys: dict[Any, Any] = rng.choice((X, KIND, {"type": "fixed", "value": 1})).copy()
    if keys.get("type") == "float" and rng.random() < 0.5:
        keys = {"type": "int", "low": rng.randrange(-3, 5), "high": rng.randrange(3, 9)}
    for key in ("type", "when", *keys, *(("step", "log") if "low" in keys else ())):
        if rng.random() < 0.06:
            keys[key] = _odd(rng)
    if rng.random() < 0.2:
        keys["when"] = {rng.choice(("x", "kind", "p")): rng.choice(("a", "b", 1, ["a"], 4))}
    return keys if rng.random() < 0.97 else _odd(rng)


def test_every_document_is_refused_in_words_or_works_with_optuna() -> None:
    """Whatever a file says: SpaceFaults, or a space that Optuna takes without a warning."""
    rng = random.Random(0)
    sampler = optuna.samplers.RandomSampler(seed=0)
    sound = 0
    refused: list[str] = []
    for _ in range(6000):
        document = space({name: _keys(rng) for name in rng.sample(("x", "kind", "p", "q"), 3)})
        try:
            made = SearchSpace.from_dict(document)
        except SpaceFaults as error:
            refused.extend(error.faults)
            continue
        sound += 1
        made.distributions()
        values = made.suggest(optuna.create_study(sampler=sampler).ask())
        searched = {name: values[name] for name in made.active(values)}
        assert made.complete(searched, {}) == searched
        assert SearchSpace.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert sound > 500
    assert all(": " in fault for fault in refused)
