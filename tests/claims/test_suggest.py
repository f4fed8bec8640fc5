"""Samplers and pruners through claims on real PostgreSQL, by several workers at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from sqlalchemy import text
from support.studies import claims_of, simulated_study

from hpo.claims.claims import Claim, Claims, End, LeaseStatus
from hpo.storage.postgres.engine import make_engine
from hpo.studies.samplers import make_pruner
from hpo.studies.spec import Choice
from hpo.studies.store import enqueue
from hpo.trainer import Epoch
from search_spaces.reader import read_space

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.studies.store import Study

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
FLAT = read_space(
    """name: flat
description: a space without conditions
trainer: simulated
parameters:
  x: {type: float, low: 0.0, high: 1.0}
  y: {type: float, low: 0.0001, high: 1.0, log: true}
""",
    "flat",
)
BASELINE = {"x": 0.5, "depth": 1, "kind": "a"}


def run(claims: Claims) -> dict[int, dict[str, Any]]:
    """Claim and complete every trial that is to be had; its value is its x."""
    found = {}
    while isinstance(claim := claims.claim(), Claim):
        found[claim.number] = claim.params
        claims.report(claim, Epoch(1, {"mAP50": claim.params["x"]}))
        claims.tell(claim, End.COMPLETE)
    return found


def run_at_once(url: str, study: Study, workers: int = 4) -> dict[int, dict[str, Any]]:
    engine = make_engine(url, pool_size=workers)
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda n: run(claims_of(engine, study, n)), range(workers)))
    engine.dispose()
    return {number: params for part in parts for number, params in part.items()}


def key(params: dict[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def test_a_grid_is_covered_exactly_once_by_workers_at_once(
    engine: Engine, database_url: str
) -> None:
    """Each of the twelve points runs once, baselines and an enqueued trial beside them."""
    study = simulated_study(
        engine, trials=14, space=GRID, sampler=Choice("grid", {}), baselines=(BASELINE,)
    )
    claims_of(engine, study).claim()  # the baseline
    first = claims_of(engine, study).claim()
    assert isinstance(first, Claim)
    put = enqueue(engine, study, BASELINE, {})
    found = run_at_once(database_url, study) | {first.number: first.params}
    assert found.pop(put) == BASELINE
    assert len(found) == 12
    assert len({key(params) for params in found.values()}) == 12


def test_qmc_elements_are_distinct_by_workers_at_once(engine: Engine, database_url: str) -> None:
    """Sixteen trials are the first sixteen elements, whoever ran them, and one order of them."""
    qmc = Choice("qmc", {"sequence": "sobol", "scramble": True})
    study = simulated_study(engine, trials=16, space=FLAT, sampler=qmc)
    found = run_at_once(database_url, study)
    assert len({params["x"] for params in found.values()}) == 16
    # A property of the first 2^n elements of a scrambled Sobol sequence: one in each interval
    assert {int(params["x"] * 16) for params in found.values()} == set(range(16))
    alone = simulated_study(engine, study="alone", trials=16, space=FLAT, sampler=qmc)
    assert run(claims_of(engine, alone)) == found


def test_cma_es_goes_on_from_what_another_worker_stored(engine: Engine) -> None:
    """The optimizer's state is read back from PostgreSQL: generations go up across workers."""
    cmaes = Choice("cmaes", {"startup_trials": 1})
    study = simulated_study(engine, trials=24, space=FLAT, sampler=cmaes)
    for number in range(24):  # a new worker, with no memory, for each trial
        claims = claims_of(engine, study, number)
        claim = claims.claim()
        assert isinstance(claim, Claim)
        claims.report(claim, Epoch(1, {"mAP50": claim.params["x"]}))
        claims.tell(claim, End.COMPLETE)
    with engine.connect() as connection:
        stored = connection.execute(
            text(
                "select t.number, a.key, a.value_json from trial_system_attributes a "
                "join trials t on t.trial_id = a.trial_id where a.key like 'cma:%' order by 1"
            )
        ).all()
    generations = [json.loads(row.value_json) for row in stored if row.key == "cma:generation"]
    assert generations == sorted(generations)
    assert generations[-1] >= 2
    assert any(row.key.startswith("cma:optimizer:") for row in stored)


def test_a_taken_over_trial_keeps_its_grid_point(engine: Engine) -> None:
    """A takeover neither skips nor repeats a point."""
    study = simulated_study(engine, trials=12, space=GRID, sampler=Choice("grid", {}))
    lost = claims_of(engine, study).claim()
    assert isinstance(lost, Claim)
    with engine.begin() as connection:
        connection.execute(text("update hpo.lease set expires_at = clock_timestamp()"))
        connection.execute(text("delete from trial_params"))  # it died before they were stored
    found = run(claims_of(engine, study, 2))
    assert found[lost.number] == lost.params
    assert len({key(params) for params in found.values()}) == 12


@pytest.mark.parametrize(
    "pruner",
    [
        Choice("hyperband", {"min_epochs": 1, "reduction_factor": 3}),
        Choice("successive_halving",
               {"min_epochs": 1, "reduction_factor": 2, "min_early_stopping_rate": 0}),
        Choice("percentile",
               {"percentile": 25.0, "startup_trials": 2, "warmup_epochs": 1, "interval": 1}),
    ],
    ids=lambda pruner: pruner.name,
)  # fmt: skip
def test_verdicts_are_those_of_plain_optuna(engine: Engine, pruner: Choice) -> None:
    """Through claims, rungs stored and read back, as in a plain study of the same name."""
    epochs, trials, rng = 9, 20, np.random.default_rng(7)
    study = simulated_study(engine, trials=trials, epochs=epochs, pruner=pruner)
    plain = optuna.create_study(
        study_name=study.name, direction="maximize", pruner=make_pruner(study.spec)
    )
    verdicts = []
    for number in range(trials):
        claims, theirs = claims_of(engine, study, number), plain.ask()
        claim = claims.claim()
        assert isinstance(claim, Claim)
        pruned = False
        for epoch in range(1, epochs + 1):
            value = float(rng.random() + 0.05 * epoch)
            theirs.report(value, epoch)
            assert claims.report(claim, Epoch(epoch, {"mAP50": value})) is LeaseStatus.GO
            if epoch == epochs:
                break  # a worker does not ask after the last epoch
            pruned = claims.prunes(claim, epoch)
            assert pruned == theirs.should_prune(), (number, epoch)
            verdicts.append(pruned)
            if pruned:
                break
        claims.tell(claim, End.PRUNED if pruned else End.COMPLETE)
        state = optuna.trial.TrialState[End.PRUNED.value if pruned else End.COMPLETE.value]
        plain.tell(number, None if pruned else value, state=state)
    assert {True, False} == set(verdicts)


def test_epochs_that_a_trial_survived_are_not_judged_again(engine: Engine) -> None:
    """After a takeover the trial is judged from where its first life had come."""
    median = Choice("median", {"startup_trials": 1, "warmup_epochs": 0, "interval": 1})
    study = simulated_study(engine, trials=2, pruner=median, epochs=4)
    good = claims_of(engine, study)
    claim = good.claim()
    assert isinstance(claim, Claim)
    for epoch in range(1, 5):
        good.report(claim, Epoch(epoch, {"mAP50": 0.9}))
    first = claims_of(engine, study, 2)
    second = claims_of(engine, study, 3)
    lost = first.claim()
    assert isinstance(lost, Claim)
    for epoch in (1, 2):  # nothing is complete yet, so nothing is pruned
        first.report(lost, Epoch(epoch, {"mAP50": 0.1}))
        assert not first.prunes(lost, epoch)
    good.tell(claim, End.COMPLETE)
    first.release(lost)
    taken = second.claim()
    assert isinstance(taken, Claim)
    assert (taken.number, taken.pruning_checked_to) == (lost.number, 2)
    verdicts = []
    for epoch in (1, 2, 3):
        second.report(taken, Epoch(epoch, {"mAP50": 0.1}))
        verdicts.append(second.prunes(taken, epoch))
    assert verdicts == [False, False, True]
