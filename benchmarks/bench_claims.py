"""Claim, report and tell on PostgreSQL against plain Optuna, at 1, 8 and 32 workers, in one run.

The same work for both: TPE over 8 floats, 10 reports a trial, Hyperband. Every worker is a process
on the same private PostgreSQL. Prints a Markdown table; the ratio is what carries over to another
machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EPOCHS = 10
PARAMETERS = 8
TRIALS = {1: 30, 8: 80, 32: 160}


def curve(params: dict[str, Any], epoch: int) -> float:
    """A made-up metric, the same for both sides."""
    return sum(params.values()) / PARAMETERS * (1 - 0.7**epoch)


def ours(url: str, study_name: str, index: int, start: Any, answers: Any) -> None:
    """One worker on our claims, until the budget is spent."""
    from hpo.claims.claims import Claim, Claims, End
    from hpo.storage.postgres.engine import Database, make_engine
    from hpo.studies.store import load_study
    from hpo.trainer import Epoch

    engine = make_engine(url, pool_size=1)
    study = load_study(engine, study_name)
    claims = Claims(Database(engine, patience_s=60), study, index, lease_s=600)
    spent: dict[str, list[float]] = {"claim": [], "report": [], "tell": []}

    def timed(what: str, call: Any) -> Any:
        at = time.perf_counter()
        value = call()
        spent[what].append(time.perf_counter() - at)
        return value

    start.wait()
    began = time.perf_counter()
    while isinstance(claim := timed("claim", claims.claim), Claim):
        end = End.COMPLETE
        for number in range(1, EPOCHS + 1):
            value = curve(claim.params, number)
            pruned = timed("report", lambda: report(claims, claim, number, value, Epoch))  # noqa: B023 - called at once
            if pruned:
                end = End.PRUNED
                break
        timed("tell", lambda: claims.tell(claim, end))  # noqa: B023 - called at once
    spent["claim"].pop()  # the last one found the budget spent
    answers.put((began, time.perf_counter(), spent))
    engine.dispose()


def report(claims: Any, claim: Any, number: int, value: float, epoch: Any) -> bool:
    """An epoch's write and its verdict, as a worker does it."""
    claims.report(claim, epoch(number, {"score": value, "seconds": 0.0}))
    return bool(claims.prunes(claim, number))


def plain(  # noqa: PLR0917 - a process target takes its arguments by position
    url: str, study_name: str, index: int, start: Any, answers: Any, each: int
) -> None:
    """One worker on plain Optuna, for a fixed share of the trials: it has no exact budget."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name=study_name, storage=url, sampler=optuna.samplers.TPESampler(seed=index),
        pruner=optuna.pruners.HyperbandPruner(1, EPOCHS, 3),
    )  # fmt: skip
    spent: dict[str, list[float]] = {"claim": [], "report": [], "tell": []}

    def timed(what: str, call: Any) -> Any:
        at = time.perf_counter()
        value = call()
        spent[what].append(time.perf_counter() - at)
        return value

    def ask() -> tuple[Any, dict[str, float]]:
        trial = study.ask()
        return trial, {f"p{i}": trial.suggest_float(f"p{i}", 0, 1) for i in range(PARAMETERS)}

    def judged(trial: Any, value: float, number: int) -> bool:
        trial.report(value, number)
        return bool(trial.should_prune())

    start.wait()
    began = time.perf_counter()
    for _ in range(each):
        trial, params = timed("claim", ask)
        pruned = False
        for number in range(1, EPOCHS + 1):
            value = curve(params, number)
            pruned = timed("report", lambda: judged(trial, value, number))  # noqa: B023 - called at once
            if pruned:
                break
        state = optuna.trial.TrialState.PRUNED if pruned else None
        timed("tell", lambda: study.tell(trial, None if state else value, state=state))  # noqa: B023 - called at once
    answers.put((began, time.perf_counter(), spent))


def run(target: Any, workers: int, *arguments: Any) -> tuple[float, dict[str, list[float]]]:
    """(seconds from the first start to the last end, seconds of each call by kind)."""
    context = multiprocessing.get_context("spawn")
    start, answers = context.Event(), context.Queue()
    url, name, *rest = arguments
    processes = [
        context.Process(target=target, args=(url, name, index, start, answers, *rest))
        for index in range(1, workers + 1)
    ]
    for process in processes:
        process.start()
    time.sleep(2 + workers * 0.5)  # imports
    start.set()
    results = [answers.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    spent: dict[str, list[float]] = {}
    for _, _, one in results:
        for what, times in one.items():
            spent.setdefault(what, []).extend(times)
    return max(end for _, end, _ in results) - min(began for began, _, _ in results), spent


def make_our_study(engine: Any, name: str, trials: int) -> None:
    """A stored study with the benchmark's space."""
    from hpo.studies.spec import Budget, Choice, Objective, Promotion, StudySpec
    from hpo.studies.store import store_study
    from search_spaces.space import SearchSpace

    parameters = {f"p{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(PARAMETERS)}
    space = {
        "name": "bench", "description": "bench", "trainer": "simulated", "parameters": parameters,
    }  # fmt: skip
    spec = StudySpec(
        study=name,
        trainer="simulated",
        model="simulated",
        data=None,
        space=SearchSpace.from_dict(space),
        objective=Objective("score", "maximize"),
        budget=Budget(trials, EPOCHS, None),
        sampler=Choice("tpe", {"startup_trials": 10, "multivariate": True, "ei_candidates": 24}),
        pruner=Choice("hyperband", {"min_epochs": 1, "reduction_factor": 3}),
        seed=0,
        train={},
        baselines=(),
        promotion=Promotion(model="bench", alias="champion"),
    )
    store_study(engine, spec, fingerprint=None, code_version="simulated 1")


COLUMNS = (
    "workers",
    "side",
    "trials",
    "trials/s",
    "claim, ms median (p95)",
    "report and verdict, ms",
    "tell, ms",
)


def line(label: str, workers: int, trials: int, wall: float, spent: dict[str, list[float]]) -> str:
    """One row of the table."""
    cells = [f"{statistics.median(spent[what]) * 1e3:.1f}" for what in ("claim", "report", "tell")]
    p95 = statistics.quantiles(spent["claim"], n=20)[-1] * 1e3
    rate = trials / wall
    figures = [workers, label, trials, f"{rate:.1f}", f"{cells[0]} ({p95:.0f})", *cells[1:]]
    return f"| {' | '.join(map(str, figures))} |"


def main() -> None:
    """Run both sides at each number of workers."""
    import optuna

    from hpo.storage.postgres import embedded, schema
    from hpo.storage.postgres.engine import make_engine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=list(TRIALS))
    chosen = parser.parse_args().workers
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / ".hpo"
        url = embedded.ensure_running(home, create=True)
        engine = make_engine(url)
        try:
            schema.upgrade(engine)
            print(f"| {' | '.join(COLUMNS)} |")
            print(f"|{' --- |' * len(COLUMNS)}")
            for workers in chosen:
                trials = TRIALS.get(workers, workers * 5)
                make_our_study(engine, f"ours-{workers}", trials)
                wall, spent = run(ours, workers, url, f"ours-{workers}")
                print(line("hpo", workers, trials, wall, spent), flush=True)
                name = f"plain-{workers}"
                optuna.create_study(study_name=name, storage=url, direction="maximize")
                their_wall, theirs = run(plain, workers, url, name, trials // workers)
                print(line("Optuna", workers, trials, their_wall, theirs))
                times = their_wall / wall
                print(f"\n{workers} workers: {times:.1f} times Optuna's rate\n", file=sys.stderr)
        finally:
            engine.dispose()
            embedded.stop(home)


if __name__ == "__main__":
    main()
