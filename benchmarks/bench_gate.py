"""How often the promotion gate is wrong, on made-up studies whose truth is known.

Equal models: how often the challenger is promoted all the same, against the rate that the gate
names (1 - confidence). Better ones: how often that is noticed. Each study is one test split with
the detections of two models (gate_world.py); what judges it is the service's own bootstrap, swaps
and gate. Exits with 1 when equal models are promoted more often than named, beyond chance.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gate_world import World, studies
from pages import write
from scipy.optimize import brentq
from scipy.stats import binom

from hpo.evaluation.average_precision import figures
from hpo.evaluation.record import EvaluationRecord
from hpo.evaluation.significance import EXPANDED, PERCENTILE, p_value, resampled_gains
from hpo.promotion.gate import INCONCLUSIVE, KEPT, PROMOTED, judge
from hpo.studies.spec import Promotion

RULES = Promotion(model="bench", alias="champion")
METRIC = "mAP50"
GATE = "the gate"  # the expanded percentile, and the luck
METHODS = (PERCENTILE, EXPANDED, GATE)
USUAL = World("usual", skill=0.8, likeness=0.5)
WORLDS = (USUAL, World("near twins", skill=0.8, likeness=0.9), World("weak", -0.7, 0.5))
IMAGES = (10, 40, 200)
GAINS = (0.02, 0.05, 0.10)
MANY = 20_000  # images that stand for all there are
CHUNK = 50
BY_CHANCE = 0.01  # so rarely would a gate that keeps its rate look as bad
Cells = dict[tuple[str, float, int], Counter[tuple[str, str]]]


@dataclass(frozen=True)
class Task:
    """Some studies of one cell of the tables.

    Attributes:
        seed: of all they draw.
        skill: the challenger's; the champion has the world's.
    """

    world: World
    gain: float
    skill: float
    images: int
    studies: int
    seed: tuple[int, ...]

    @property
    def cell(self) -> tuple[str, float, int]:
        """What the table has a row for."""
        return self.world.name, self.gain, self.images


def run(task: Task) -> tuple[Task, Counter[tuple[str, str]], float]:
    """How often each method came to which outcome, and the seconds of processor time it took."""
    began = time.process_time()
    rng = np.random.default_rng(task.seed)
    skills = (task.skill, task.world.skill)
    outcomes: Counter[tuple[str, str]] = Counter()
    for pair in studies(rng, task.studies, task.images, skills, task.world.likeness):
        challenger, champion = (
            EvaluationRecord(
                weights_sha256="",
                test_fingerprint="",
                metrics=figures(one).metrics,
                images=task.images,
            )
            for one in pair
        )
        seed = int(rng.integers(2**31))
        gains = resampled_gains(*pair, METRIC, resamples=RULES.resamples, seed=seed)
        by_chance = p_value(*pair, METRIC, draws=RULES.resamples, seed=seed)
        found = {
            # An interval alone: as if luck were never in the way
            PERCENTILE: gains.gain(RULES.confidence, 0.0, method=PERCENTILE),
            EXPANDED: gains.gain(RULES.confidence, 0.0, method=EXPANDED),
            GATE: gains.gain(RULES.confidence, by_chance),
        }
        for method in METHODS:
            result = judge(RULES, challenger, champion, found[method], METRIC, "maximize")
            outcomes[method, result.outcome] += 1
    return task, outcomes, time.process_time() - began


def true_value(skill: float) -> float:
    """The metric of a model of that skill on all the images there are."""
    ((model,),) = studies(np.random.default_rng(0), 1, MANY, (skill,), 0.0)
    return figures(model).metrics[METRIC]


def skill_for(gain: float) -> float:
    """The skill that is better than the usual champion's by that much."""
    wanted = true_value(USUAL.skill) + gain
    found = brentq(
        lambda skill: true_value(skill) - wanted, USUAL.skill, USUAL.skill + 2, xtol=1e-3
    )
    return float(found)


def tasks(number: int, seed: int) -> list[Task]:
    """Everything there is to do, the longest first."""
    cells = [(world, 0.0, world.skill) for world in WORLDS]
    cells += [(USUAL, gain, skill_for(gain)) for gain in GAINS]
    return [
        Task(world, gain, skill, images, min(CHUNK, number - first), (seed, row, images, first))
        for images in sorted(IMAGES, reverse=True)
        for row, (world, gain, skill) in enumerate(cells)
        for first in range(0, number, CHUNK)
    ]


def measure(number: int, seed: int, processes: int) -> tuple[Cells, float]:
    """(the outcomes of each cell, seconds of processor time of all processes)."""
    cells: Cells = {}
    spent = 0.0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for task, outcomes, seconds in pool.imap_unordered(run, tasks(number, seed)):
            cells.setdefault(task.cell, Counter()).update(outcomes)
            spent += seconds
    return cells, spent


def error(share: float, number: int) -> float:
    """Monte-Carlo standard error of a share."""
    return math.sqrt(share * (1 - share) / number)


def percent(count: int, number: int) -> str:
    """A share with its standard error; none and all are not free of it."""
    share = count / number
    unsure = error(min(max(share, 1 / number), 1 - 1 / number), number)
    return f"{100 * share:.1f} ± {100 * unsure:.1f}"


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def equal_models(cells: Cells, number: int) -> str:
    """Promoted though equal."""
    head = ("models", "their mAP50", "images", *METHODS)
    rows = [
        (
            world.name, f"{true_value(world.skill):.2f}", images,
            *(percent(cells[world.name, 0.0, images][method, PROMOTED], number)
              for method in METHODS),
        )
        for world in WORLDS for images in IMAGES
    ]  # fmt: skip
    return table(head, rows)


def better_models(cells: Cells, number: int) -> str:
    """What becomes of a challenger that is really better."""
    outcomes = (PROMOTED, INCONCLUSIVE, KEPT)
    head = (
        "true gain",
        "images",
        PERCENTILE,
        EXPANDED,
        *(f"{GATE}: {outcome}" for outcome in outcomes),
    )
    rows = [
        (
            f"{gain:.2f}", images,
            *(percent(cell[method, PROMOTED], number) for method in (PERCENTILE, EXPANDED)),
            *(percent(cell[GATE, outcome], number) for outcome in outcomes),
        )
        for gain in GAINS for images in IMAGES for cell in [cells[USUAL.name, gain, images]]
    ]  # fmt: skip
    return table(head, rows)


def too_often(cells: Cells, number: int) -> list[str]:
    """Where the gate promotes equal models so often that the rate named is not true."""
    return [
        f"{name}, {images} images: {cell[GATE, PROMOTED]} of {number}"
        for (name, gain, images), cell in cells.items()
        if not gain and binom.sf(cell[GATE, PROMOTED] - 1, number, 1 - RULES.confidence) < BY_CHANCE
    ]


def section(cells: Cells, number: int, command: str, took: str) -> str:
    """The page's part, with no date: it says what to run."""
    named = 100 * (1 - RULES.confidence)
    return f"""\
`{command}`: {number} simulated studies a row, {RULES.resamples} resamples and as many swaps each,
in {took}.
Shares in percent, with their Monte-Carlo standard error. A column with the name of an interval is
what that interval's lower bound alone would promote; the gate wants the expanded percentile's bound
and at most {named:.0f}% of luck.

Two equal models: how often the challenger is promoted. The gate names a rate of {named:.0f}%. Near
twins share 90% of their luck, the others 50%.

{equal_models(cells, number)}

A challenger that is really better, against the usual champion: promoted, and what else becomes of
it.

{better_models(cells, number)}"""


def main() -> None:
    """Measure, print, write, and judge the gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000, help="of each row")
    parser.add_argument(
        "--quick", action="store_true", help="4 studies a row: the figures mean nothing"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, help="page with the markers, for instance docs/promotion.md"
    )
    asked = parser.parse_args()
    number = 4 if asked.quick else asked.studies
    began = time.monotonic()
    cells, spent = measure(number, asked.seed, asked.processes)
    minutes = (time.monotonic() - began) / 60
    took = (
        f"{minutes:.0f} minutes with {asked.processes} processes "
        f"({spent / 60:.0f} minutes of processor time in all)"
    )
    text = section(cells, number, f"make bench-gate SEED={asked.seed}", took)
    print(text)
    if asked.out:
        write(asked.out, "bench-gate", text)
    if wrong := too_often(cells, number):
        sys.exit("equal models are promoted too often: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
