"""A spec's dictionary, hash and differences."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from support.studies import simulated_spec

from hpo.studies.spec import Choice, Objective, Promotion, StudySpec, differences
from search_spaces.reader import load_space

NUMBERS = {
    "tiny": 1e-5, "tenth": 0.1, "one": 1.0, "whole": 1, "huge": 1e16, "smallest": 5e-324,
    "largest": 1.7976931348623157e308, "long": 2**53 + 1, "longer": 10**30, "minus": -0.0,
    "third": 1 / 3, "flag": True, "none": None, "text": "ü\u2028", "list": [1.0, {"a": 2.0}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("direction", "sign", "order"),
    [("maximize", 1, [0.75, 0.5, -1.0]), ("minimize", -1, [-1.0, 0.5, 0.75])],
)
def test_objective_ranks_the_best_value_first_and_nan_last(
    direction: str, sign: int, order: list[float]
) -> None:
    """One place knows what `better` means; nothing measured is worse than anything measured."""
    objective = Objective("loss", direction)
    ranked = sorted([0.5, float("nan"), -1.0, 0.75], key=objective.rank_key)
    assert objective.sign == sign
    assert ranked[:3] == order
    assert math.isnan(ranked[3])


@pytest.mark.parametrize("space", ["simulated", "yolov8n", "yolov8n-quick", "yolov8n-size"])
def test_a_spec_comes_back_equal_from_its_dictionary(space: str) -> None:
    """`from_dict(to_dict())` is the same spec, also through JSON text."""
    spec = simulated_spec(space=load_space(space), train=NUMBERS, baselines=({"x": 0.1},))
    assert StudySpec.from_dict(spec.to_dict()) == spec
    again = StudySpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert (again, again.sha256()) == (spec, spec.sha256())


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    """Mappings are equal whatever wrote them first."""
    train = {"epoch_s": 0.1, "fail_at": 2}
    turned = dict(reversed(train.items()))
    assert list(turned) != list(train)
    assert simulated_spec(train=train).sha256() == simulated_spec(train=turned).sha256()


@pytest.mark.parametrize(
    "changes",
    [
        {"study": "other"},
        {"seed": 1},
        {"trials": 7},
        {"train": {}},
        {"train": {"epoch_s": 0.010000000000000002}},
        {"baselines": ({"x": 0.1},)},
        {"sampler": Choice("random", {"a": None})},
        {"promotion": Promotion(model="simulated-test", alias="best")},
    ],
)
def test_any_change_is_another_hash_and_a_difference(changes: dict[str, Any]) -> None:
    """What differs is named by its path, and the two agree on whether anything does."""
    spec, other = simulated_spec(), simulated_spec(**changes)
    assert spec.sha256() != other.sha256()
    (line,) = differences(spec, other)
    assert line.partition(":")[0].partition(".")[0] == next(
        "budget" if key == "trials" else key for key in changes
    )


def test_differences_say_stored_and_given() -> None:
    """One line for each value: its path, what is stored, what is given."""
    spec = simulated_spec()
    other = replace(spec, train={"nan_at": 2}, seed=3)
    assert differences(spec, spec) == []
    assert differences(spec, other) == [
        "seed: 0 -> 3",
        "train.epoch_s: 0.01 -> (absent)",
        "train.nan_at: (absent) -> 2",
    ]


def test_numbers_that_are_equal_are_the_same_spec() -> None:
    """`epoch_s: 1` and `epoch_s: 1.0` are no difference and one hash."""
    whole, with_point = simulated_spec(train={"epoch_s": 1}), simulated_spec(train={"epoch_s": 1.0})
    assert differences(whole, with_point) == []
    assert whole.sha256() == with_point.sha256()


def test_a_number_that_is_none_has_no_hash() -> None:
    """NaN is no JSON; a spec with one was never checked."""
    with pytest.raises(ValueError, match="Out of range"):
        simulated_spec(train={"epoch_s": float("nan")}).sha256()
