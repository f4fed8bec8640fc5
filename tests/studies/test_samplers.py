"""Samplers and pruners, really used on snapshots: reproducible, and equal to plain Optuna's."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from support.studies import simulated_spec

from hpo.claims.snapshot import Snapshot
from hpo.claims.suggest import should_prune, suggest
from hpo.studies.samplers import PRUNERS, SAMPLERS, make_pruner, make_sampler
from hpo.studies.spec import Choice
from search_spaces.reader import load_space, read_space

if TYPE_CHECKING:
    from hpo.studies.spec import StudySpec

FLAT = read_space(
    """name: flat
description: a space without conditions
trainer: simulated
parameters:
  x: {type: float, low: 0.0, high: 1.0}
  y: {type: float, low: 0.0001, high: 1.0, log: true}
  kind: {type: categorical, choices: [a, b]}
""",
    "flat",
)
GRID = read_space(
    """name: grid
description: twelve points
trainer: simulated
parameters:
  x: {type: float, low: 0.0, high: 1.0, step: 0.5}
  depth: {type: int, low: 1, high: 2}
  kind: {type: categorical, choices: [a, b]}
""",
    "grid",
)


def options(table: dict[str, Any], name: str, **changes: Any) -> Choice:
    known = table[name]
    values = {key: option.default for key, option in known.items()}
    return Choice(name, values | {key: changes[key] for key in changes if key in known})


def sampled(spec: StudySpec, count: int, enqueued: dict[int, Any] | None = None) -> list[Any]:
    """Parameters of `count` trials, one after the other; a trial's value is its x."""
    history: list[FrozenTrial] = []
    found = []
    for number in range(count):
        fixed = (enqueued or {}).get(number)
        trial = frozen(number, attrs={} if fixed is None else {"fixed_params": fixed})
        suggestion = suggest(spec, snapshot(spec, [*history, trial]), 100 + number)
        trial.system_attrs |= {key: json.loads(text) for key, text in suggestion.attrs.items()}
        trial.params, trial.distributions = suggestion.params, spec.space.distributions()
        trial.distributions = {name: trial.distributions[name] for name in trial.params}
        trial.state, trial.values = TrialState.COMPLETE, [trial.params["x"]]
        history.append(trial)
        found.append(suggestion)
    return found


def frozen(number: int, attrs: dict[str, Any] | None = None, **changes: Any) -> FrozenTrial:
    fields: dict[str, Any] = {
        "state": TrialState.RUNNING, "value": None, "datetime_start": None,
        "datetime_complete": None, "params": {}, "distributions": {}, "user_attrs": {},
        "system_attrs": attrs or {}, "intermediate_values": {}, "trial_id": 100 + number,
    }  # fmt: skip
    return FrozenTrial(number=number, **(fields | changes))


def snapshot(spec: StudySpec, trials: list[FrozenTrial]) -> Snapshot:
    return Snapshot(spec.study, StudyDirection.MAXIMIZE, trials, {})


def spec_of(name: str, **changes: Any) -> StudySpec:
    space = changes.pop("space", GRID if name == "grid" else FLAT)
    return simulated_spec(space=space, sampler=options(SAMPLERS, name, startup_trials=2), **changes)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_and_history_give_the_same_suggestions(name: str) -> None:
    """Whichever worker asks; another seed gives others. No sampler warns."""
    count = 5 if name == "gp" else 9
    first = [one.params for one in sampled(spec_of(name), count)]
    assert first == [one.params for one in sampled(spec_of(name), count)]
    assert first != [one.params for one in sampled(spec_of(name, seed=1), count)]
    assert len({str(params) for params in first}) > count / 2


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"grid", "qmc"}))
def test_conditional_parameters_are_sampled_where_they_exist(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`depth` exists beside `kind: b` only, under every sampler that takes such a space."""
    optuna.logging.enable_propagation()
    found = sampled(spec_of(name, space=load_space("simulated")), 5 if name == "gp" else 12)
    assert all(("depth" in one.params) == (one.params["kind"] == "b") for one in found)
    assert {one.params["kind"] for one in found} == {"a", "b"}
    noise = [record.message for record in caplog.records if "greenlet" not in record.message]
    assert noise == [], "no line for each trial on the user's terminal"


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_every_option_is_understood_by_optuna(sampler: str, pruner: str) -> None:
    """Samplers and pruners are built from the stored options, defaults and others."""
    spec = simulated_spec(
        sampler=options(SAMPLERS, sampler), pruner=options(PRUNERS, pruner), epochs=9
    )
    assert isinstance(make_sampler(spec, 0, 0), optuna.samplers.BaseSampler)
    assert isinstance(make_pruner(spec), optuna.pruners.BasePruner)
    assert all(option.why for option in SAMPLERS[sampler].values())
    assert all(option.why for option in PRUNERS[pruner].values())


def test_a_grid_is_walked_once() -> None:
    """Twelve trials see the twelve points, in an order of the seed's; a baseline takes none."""
    baseline = {"x": 0.5, "depth": 2, "kind": "b"}
    found = [one.params for one in sampled(spec_of("grid"), 13, {4: baseline})]
    assert found.pop(4) == baseline
    assert len({str(sorted(params.items())) for params in found}) == 12
    other = [one.params for one in sampled(spec_of("grid", seed=5), 12)]
    assert found != other
    assert sorted(map(str, found)) == sorted(map(str, other))


@pytest.mark.parametrize("sequence", ["sobol", "halton"])
@pytest.mark.parametrize("scramble", [True, False])
def test_qmc_is_optunas_own_sequence(sequence: str, scramble: bool) -> None:
    """The trial of rank r takes element r of Optuna's sequence of the seed; enqueued ones none."""
    choice = Choice("qmc", {"sequence": sequence, "scramble": scramble})
    spec = simulated_spec(space=FLAT, sampler=choice, seed=3)
    found = [one.params for one in sampled(spec, 9, {2: {"x": 0.5, "y": 0.5, "kind": "a"}})]
    del found[2]
    assert len({params["x"] for params in found}) == 8

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(qmc_type=sequence, scramble=scramble, seed=3)
    study = optuna.create_study(sampler=sampler)
    # Optuna samples its first trial at random: this one stands for it
    study.add_trial(optuna.trial.create_trial(
        value=0.0, params={"x": 0.5, "y": 0.5, "kind": "a"}, distributions=FLAT.distributions(),
    ))  # fmt: skip
    for params in found:
        assert FLAT.suggest(study.ask()) == params


def test_cma_es_hands_its_state_from_trial_to_trial() -> None:
    """The optimizer is stored with a trial and read back by a later one; it leaves the middle."""
    found = sampled(spec_of("cmaes"), 30)
    generations = [one.attrs.get("cma:generation") for one in found]
    assert generations[:2] == [None, None], "startup trials are random"
    assert generations[-1] not in (None, "0"), "the stored state went on"
    assert any(key.startswith("cma:optimizer") for one in found for key in one.attrs)
    best = max(one.params["x"] for one in found[-8:])
    assert best > 0.8, "x is maximized"


@pytest.mark.parametrize("name", ["median", "percentile", "successive_halving", "hyperband"])
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_plain_optuna(name: str, seed: int) -> None:
    """The same trials, the same reports, the same study name: the same verdict at every step."""
    epochs, rng = 9, np.random.default_rng(seed)
    spec = simulated_spec(epochs=epochs, pruner=options(PRUNERS, name, startup_trials=3))
    plain = optuna.create_study(
        study_name=spec.study, direction="maximize", pruner=make_pruner(spec),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )  # fmt: skip
    ours: list[FrozenTrial] = []
    verdicts = []
    for number in range(25):
        theirs, mine = plain.ask(), frozen(number)
        ours.append(mine)
        pruned = False
        for epoch in range(1, epochs + 1):
            value = float(rng.random() + 0.05 * epoch)
            theirs.report(value, epoch)
            mine.intermediate_values[epoch] = value
            if epoch == epochs:
                break  # a worker does not ask after the last epoch
            state = snapshot(spec, ours)
            pruned, rungs = should_prune(spec, state, 100 + number)
            assert pruned == theirs.should_prune(), (number, epoch)
            verdicts.append(pruned)
            mine.system_attrs |= {key: json.loads(text) for key, text in rungs.items()}
            if pruned:
                break
        mine.state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        mine.values = None if pruned else [value]
        plain.tell(number, mine.value, state=mine.state)
    assert {True, False} == set(verdicts)


def complete(number: int, value: float, epochs: int = 4) -> FrozenTrial:
    steps = dict.fromkeys(range(1, epochs + 1), value)
    return frozen(number, state=TrialState.COMPLETE, value=value, intermediate_values=steps)


def keeps(spec: StudySpec, history: list[FrozenTrial], values: list[float]) -> bool:
    trial = frozen(99, intermediate_values=dict(enumerate(values, 1)))
    return not should_prune(spec, snapshot(spec, [*history, trial]), 199)[0]


def test_percentile_keeps_the_best_quarter() -> None:
    """25 keeps what is among the best 25% at its epoch, not all but the worst 25%."""
    spec = simulated_spec(pruner=options(PRUNERS, "percentile", percentile=25.0))
    history = [complete(number, number / 100) for number in range(101)]
    assert keeps(spec, history, [0.76])
    assert not keeps(spec, history, [0.74])


def test_warmup_epochs_are_never_pruned() -> None:
    """With 2 of them the worst trial lives through epochs 1 and 2, and ends at 3."""
    history = [complete(number, 0.5) for number in range(5)]
    for warmup, last in ((0, 1), (2, 3)):
        spec = simulated_spec(pruner=options(PRUNERS, "median", warmup_epochs=warmup))
        verdicts = [keeps(spec, history, [0.1] * epoch) for epoch in range(1, last + 1)]
        assert verdicts == [True] * (last - 1) + [False]


def test_the_interval_judges_every_nth_epoch() -> None:
    """With 2, epochs 1 and 3 are judged, and 2 is not."""
    history = [complete(number, 0.5) for number in range(5)]
    spec = simulated_spec(pruner=options(PRUNERS, "median", interval=2))
    assert [keeps(spec, history, [0.1] * epoch) for epoch in (1, 2, 3)] == [False, True, False]


def test_nothing_is_pruned_before_min_epochs() -> None:
    """Hyperband and successive halving leave the first epochs alone."""
    history = [complete(number, 0.5, 9) for number in range(20)]
    for name in ("hyperband", "successive_halving"):
        spec = simulated_spec(epochs=9, pruner=options(PRUNERS, name, min_epochs=3))
        assert keeps(spec, history, [0.1])
        assert keeps(spec, history, [0.1, 0.1])


@pytest.mark.parametrize("name", sorted(PRUNERS.keys() - {"none"}))
def test_a_trial_with_no_finite_value_is_judged_without_a_warning(name: str) -> None:
    """NaN in every epoch, alone or in the history, is no noise on the terminal."""
    spec = simulated_spec(epochs=9, pruner=options(PRUNERS, name, startup_trials=1))
    history = [complete(number, float("nan")) for number in range(3)]
    for trials in (history, [complete(3, 0.5)]):
        keeps(spec, trials, [float("nan")] * 3)
        keeps(spec, trials, [0.2] * 3)


def test_a_trial_that_has_its_parameters_keeps_them() -> None:
    """After a takeover nothing is sampled again, and nothing is stored twice."""
    spec = spec_of("random")
    space = FLAT.distributions()
    trial = frozen(0, params={"x": 0.25}, distributions={"x": FloatDistribution(0.0, 1.0)})
    suggestion = suggest(spec, snapshot(spec, [trial]), 100)
    assert suggestion.params["x"] == 0.25
    assert suggestion.stored.keys() == space.keys() - {"x"}
