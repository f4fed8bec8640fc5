"""A search space suggests, completes, counts and round-trips as its conditions say."""

from __future__ import annotations

import json
import pickle
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces.faults import SpaceFaults
from search_spaces.space import SearchSpace

DOCUMENT: dict[str, Any] = {
    "name": "all-kinds",
    "description": "every kind of parameter",
    "trainer": "yolo",
    "parameters": {
        "optimizer": {"type": "categorical", "choices": ["SGD", "AdamW", "auto"]},
        "lr0": {"type": "float", "low": 0.001, "high": 1, "log": True},
        "momentum": {"type": "float", "low": 0.8, "high": 0.98, "step": 0.01},
        "imgsz": {"type": "int", "low": 320, "high": 416, "step": 32},
        "nbs": {"type": "int", "low": 1, "high": 64, "log": True},
        "cos_lr": {"type": "fixed", "value": True},
        "nesterov": {
            "type": "categorical",
            "choices": [True, False],
            "when": {"optimizer": ["SGD", "auto"]},
        },
        "lrf": {"type": "float", "low": 0, "high": 1, "when": {"nesterov": True, "imgsz": 320}},
        "note": {"type": "fixed", "value": "adam", "when": {"optimizer": "AdamW"}},
    },
}
DEFAULTS = {
    "optimizer": "auto",
    "lr0": 0.01,
    "momentum": 0.93,
    "imgsz": 640,
    "nbs": 64,
    "nesterov": False,
    "lrf": 0.01,
}


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.from_dict(DOCUMENT)


def small(**parameters: Any) -> SearchSpace:
    return SearchSpace.from_dict({**DOCUMENT, "parameters": parameters})


def test_distributions_are_optunas_own(space: SearchSpace) -> None:
    """Each searched parameter becomes the distribution that its YAML says; fixed ones none."""
    assert space.distributions() == {
        "optimizer": CategoricalDistribution(("SGD", "AdamW", "auto")),
        "lr0": FloatDistribution(0.001, 1.0, log=True),
        "momentum": FloatDistribution(0.8, 0.98, step=0.01),
        "imgsz": IntDistribution(320, 416, step=32),
        "nbs": IntDistribution(1, 64, log=True),
        "nesterov": CategoricalDistribution((True, False)),
        "lrf": FloatDistribution(0.0, 1.0),
    }


def test_suggest_asks_for_what_exists_and_nothing_else(space: SearchSpace) -> None:
    """Over many trials, Optuna stores exactly the active searched parameters of each."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(100):
        trial = study.ask()
        values = space.suggest(trial)
        stored = study.trials[trial.number]
        assert list(stored.params) == space.active(values)
        assert stored.distributions == {name: space.distributions()[name] for name in stored.params}
        assert values["cos_lr"] is True
        assert {name: values[name] for name in stored.params} == stored.params
        assert ("nesterov" in values) == (values["optimizer"] != "AdamW")
        assert values.get("note") == ("adam" if values["optimizer"] == "AdamW" else None)
        assert ("lrf" in values) == (values.get("nesterov") is True and values["imgsz"] == 320)
        seen.add((values["optimizer"], "lrf" in values))
    assert {("SGD", True), ("SGD", False), ("AdamW", False)} <= seen


def test_suggest_works_on_a_fixed_trial(space: SearchSpace) -> None:
    """The values of a stored trial give the same dictionary again."""
    params = {"optimizer": "AdamW", "lr0": 0.1, "momentum": 0.83, "imgsz": 352, "nbs": 3}
    values = space.suggest(optuna.trial.FixedTrial(params))
    assert values == {**params, "cos_lr": True, "note": "adam"}


def test_with_fixed_adds_what_a_trial_was_given_beside_its_searched_values(
    space: SearchSpace,
) -> None:
    """Optuna stores the searched parameters only; a fixed one exists under its condition."""
    params = {"optimizer": "AdamW", "lr0": 0.1, "momentum": 0.83, "imgsz": 352, "nbs": 3}
    assert space.with_fixed(params) == space.suggest(optuna.trial.FixedTrial(params))
    assert "note" not in space.with_fixed({"optimizer": "SGD"})
    assert space.with_fixed({}) == {"cos_lr": True}


def test_a_child_does_not_exist_without_its_parent(space: SearchSpace) -> None:
    """A value left over for a parent that does not exist brings no child to life."""
    values = {"optimizer": "AdamW", "nesterov": True, "imgsz": 320}
    assert space.active(values) == ["optimizer", "lr0", "momentum", "imgsz", "nbs"]
    assert "nesterov" not in space.active({})


def test_complete_fills_in_the_defaults(space: SearchSpace) -> None:
    """A baseline gets every active searched parameter, in order and in its own type."""
    values = space.complete({"imgsz": 320.0, "nesterov": True}, DEFAULTS)
    assert values == {**DEFAULTS, "imgsz": 320, "nesterov": True}
    assert list(values) == space.active(values)
    assert type(values["imgsz"]) is int
    assert space.complete({"imgsz": 384, "cos_lr": True}, DEFAULTS) == {
        "optimizer": "auto",
        "lr0": 0.01,
        "momentum": 0.93,
        "imgsz": 384,
        "nbs": 64,
        "nesterov": False,
    }


def test_what_complete_returns_optuna_can_store(space: SearchSpace) -> None:
    """Completed values go through Optuna's own checks without a change."""
    values = space.complete({"imgsz": 320, "nesterov": True, "lr0": 1}, DEFAULTS)
    distributions = {name: space.distributions()[name] for name in values}
    study = optuna.create_study()
    study.add_trial(
        optuna.trial.create_trial(params=values, distributions=distributions, value=0.0)
    )
    assert study.trials[0].params == values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"imgs": 1}, "imgs: the search space has no such parameter (did you mean 'imgsz'?)"),
        ({"lr0": 2}, "lr0: 2.0 lies outside 0.001 to 1.0: give another value or widen the range"),
        ({"lr0": "0.1"}, "lr0: '0.1' is no number"),
        ({"lr0": True}, "lr0: True is no number"),
        ({"lr0": float("nan")}, "lr0: nan is no finite number"),
        ({"momentum": 0.835}, "momentum: 0.835 is not on the grid from 0.8 by 0.01"),
        ({"nbs": 2.5}, "nbs: 2.5 is no whole number"),
        ({"nbs": 2**60}, "nbs: 1152921504606846976 is too large"),
        ({"optimizer": "Adam"}, "optimizer: 'Adam' is none of 'SGD', 'AdamW', 'auto'"),
        ({"nesterov": 1}, "nesterov: 1 is none of True, False"),
        ({"cos_lr": False}, "cos_lr: False is given, but the space fixes it to True"),
        (
            {"optimizer": "AdamW", "nesterov": True},
            "nesterov: exists only where optimizer is SGD or auto",
        ),
        ({"lrf": 0.5}, "lrf: exists only where imgsz is 320 and nesterov is True"),
    ],
)
def test_complete_refuses_what_a_parameter_cannot_take(
    space: SearchSpace, values: dict[str, Any], expected: str
) -> None:
    """A value that Optuna could not store gets one sentence that says what would do."""
    with pytest.raises(SpaceFaults) as caught:
        space.complete({"imgsz": 384, **values}, DEFAULTS)
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(expected)


def test_complete_reports_defaults_that_do_not_fit(space: SearchSpace) -> None:
    """`{}` where the trainer's default lies outside says what to do; all faults at once."""
    missing = {name: value for name, value in DEFAULTS.items() if name != "lr0"}
    with pytest.raises(SpaceFaults) as caught:
        space.complete({}, missing)
    lr0, imgsz = caught.value.faults
    assert lr0 == "lr0: the trainer has no default for it: give it explicitly"
    assert imgsz == (
        "imgsz: the trainer's default 640 lies outside 320 to 416: "
        "give it explicitly or widen the range"
    )


def test_a_grid_lists_every_value() -> None:
    """Stepped floats are the decimal numbers that were meant, and Optuna takes all of them."""
    space = small(
        momentum={"type": "float", "low": 0.8, "high": 0.98, "step": 0.01},
        imgsz={"type": "int", "low": 320, "high": 416, "step": 32},
        kind={"type": "categorical", "choices": ["a", None, 3]},
        on={"type": "fixed", "value": True},
    )
    grid = space.grid()
    assert grid["momentum"] == [round(0.8 + 0.01 * index, 2) for index in range(19)]
    assert grid["imgsz"] == [320, 352, 384, 416]
    assert grid["kind"] == ["a", None, 3]
    assert space.grid_size() == 19 * 4 * 3
    sampler = optuna.samplers.GridSampler(grid, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: float(bool(space.suggest(trial))), n_trials=space.grid_size())
    assert len({tuple(map(str, trial.params.values())) for trial in study.trials}) == 228


def test_a_grid_needs_steps_and_no_conditions(space: SearchSpace) -> None:
    """What keeps a space from being a grid is named, all of it."""
    with pytest.raises(SpaceFaults) as caught:
        space.grid()
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "parameters.lr0",
        "parameters.lrf",
        "parameters.nesterov.when",
        "parameters.lrf.when",
    ]


def test_bounds_tell_where_a_value_may_lie(space: SearchSpace) -> None:
    """(low, high), the choices, or the one value, for every parameter."""
    bounds = space.bounds()
    assert bounds["imgsz"] == (320, 416)
    assert bounds["nesterov"] == (True, False)
    assert bounds["cos_lr"] == (True,)
    assert list(bounds) == list(DOCUMENT["parameters"])
    assert space.is_searched("imgsz")
    assert not space.is_searched("cos_lr")
    assert not space.is_searched("epochs")


def test_to_dict_round_trips_through_reordered_json(space: SearchSpace) -> None:
    """A JSON store that reorders keys, as PostgreSQL's jsonb does, loses nothing."""
    stored = json.dumps(space.to_dict(), sort_keys=True, allow_nan=False)
    again = SearchSpace.from_dict(json.loads(stored))
    assert again == space
    assert json.dumps(again.to_dict(), sort_keys=True) == stored


def test_equal_spaces_written_differently_are_equal() -> None:
    """1 and 1.0, a left-out default and a written one, a value and a list of one are the same."""
    kind = {"type": "categorical", "choices": ["a", "b"]}
    one = small(
        kind=kind,
        x={"type": "float", "low": 0, "high": 1, "log": False, "when": {"kind": "a"}},
        n={"type": "int", "low": 0, "high": 3, "step": 1},
    )
    other = small(
        kind=kind,
        x={"type": "float", "low": 0.0, "high": 1.0, "when": {"kind": ["a"]}},
        n={"type": "int", "low": 0, "high": 3},
    )
    assert one == other
    assert one.to_dict() == other.to_dict()


def test_a_space_pickles_and_hashes(space: SearchSpace) -> None:
    """Workers receive spaces, and equal ones are one key of a dictionary."""
    again = pickle.loads(pickle.dumps(space))  # noqa: S301 - our own bytes
    assert again == space
    assert {space: 1}[again] == 1
