"""`python -m faults.run`: studies under a seeded plan of faults, the verdict, and the tables.

PYTHONPATH=tests:benchmarks python -m faults.run --seed 1 --kills 36 --trainer simulated yolo --bugs
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from faults import audit, invariants, orphans, report, schedule, studies, work
from faults.ordeal import Ordeal, Task, create, run, tell
from faults.record import Record
from faults.report import Figures
from faults.steps import PROMOTION
from faults.world import World
from pages import write

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKS = (*invariants.CHECKS, *work.CHECKS, *orphans.CHECKS)
LEASE_S = 2.0
YOLO_LEASE_S = 4.0  # torch leaves a loaded machine of two cores little time for anything else
YOLO_STORE_MB = 1500  # two checkpoints of 50 MB a trial, and one more on its way
WORKER_FAULTS = frozenset(schedule.OTHERS) - {schedule.DRAIN, schedule.PAUSE}


def broken(record: Record) -> Iterator[str]:
    """What does not hold, each with its evidence."""
    yield from record.ordeal.complaints
    for check in CHECKS:
        for evidence in check(record):
            yield f"{check.__name__}: {evidence}"


def besiege(
    world: World, task: Task, faults: list[schedule.Fault], *, promotion: bool = True
) -> Record:
    """Run one study under faults."""
    create(world, task)
    ordeal: Ordeal = run(world, task, faults, promotion=promotion)
    return Record(world, ordeal)


def simulated(folder: Path, seed: int, kills: int, workers: int) -> Iterator[Record]:
    """A study under all kinds of faults, and one in which a worker always waits.

    Args:
        folder: an empty one.
        seed: of both plans.
        kills: processes to be killed in all.
        workers: of the first study.
    """
    waits = max(3, kills // 14)
    with World(folder, lease_s=LEASE_S) as world:
        audit.install(world.engine)
        own = kills - len(PROMOTION) - waits
        task = studies.simulated("siege", seed, trials=max(8, kills), workers=workers)
        # A few more than asked for: not every step is come by before the study's end
        yield besiege(world, task, schedule.plan(seed, own + max(3, own // 8)))
        task = studies.waiting(seed, epochs=40 * waits)
        yield besiege(world, task, schedule.spaced(seed, waits), promotion=False)


def yolo(folder: Path, seed: int) -> Iterator[Record]:
    """A few real trainings."""
    with World(folder, lease_s=YOLO_LEASE_S, store_mb=YOLO_STORE_MB, server=False) as world:
        audit.install(world.engine)
        faults = schedule.plan(seed, 6, without=WORKER_FAULTS)
        yield besiege(world, studies.yolo("detector", seed), faults, promotion=False)


def main() -> int:
    """Run; 0 when everything held."""
    asked = _asked()
    parent = Path(tempfile.mkdtemp(prefix="hpo-chaos-"))
    figures: dict[str, Figures] = {}
    wrong: list[str] = []
    for trainer in asked.trainer:
        figures[trainer] = Figures()
        folder = parent / trainer
        runs = simulated(folder, asked.seed, asked.kills, asked.workers)
        for record in runs if trainer == "simulated" else yolo(folder, asked.seed):
            found = list(broken(record))
            figures[trainer].add(record, timed=record.study.name == studies.WAITING)
            wrong += [f"{record.study.name}: {line}" for line in found]
            tell(f"{record.study.name}: {len(found)} invariants broken")
    bugs: list[tuple[str, str]] = []
    if asked.bugs:
        from faults.bugs import see_all

        bugs, unseen = see_all(parent / "bugs", asked.seed)
        wrong += unseen
    return _conclude(asked, parent, figures, bugs, wrong)


def _conclude(
    asked: argparse.Namespace,
    parent: Path,
    figures: dict[str, Figures],
    bugs: list[tuple[str, str]],
    wrong: list[str],
) -> int:
    flags = f"--seed {asked.seed} --kills {asked.kills} --workers {asked.workers}"
    command = f"make {asked.section} SEED={asked.seed}"
    killed = sum(one.kills for one in figures.values())
    if "simulated" in figures and killed < asked.kills:
        wrong.append(f"only {killed} of {asked.kills} processes were killed")
    text = report.section(command, figures, LEASE_S, bugs, len(wrong))
    sys.stdout.write(f"{text}\n")
    if wrong:
        lines = "\n".join(f"- {line}" for line in wrong)
        sys.stdout.write(f"\nBROKEN, to repeat with {flags}; logs in {parent}:\n{lines}\n")
        return 1
    shutil.rmtree(parent)
    if asked.out is not None:
        write(asked.out, asked.section, text)
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same plan")
    parser.add_argument("--kills", type=int, default=36, help="processes to kill at least")
    parser.add_argument("--workers", type=int, default=3, help="at once")
    parser.add_argument("--trainer", nargs="+", default=["simulated"],
                        choices=("simulated", "yolo"))  # fmt: skip
    parser.add_argument("--bugs", action="store_true", help="see that planted bugs are seen")
    parser.add_argument("--section", default="chaos", choices=("chaos", "soak"))
    parser.add_argument("--out", type=Path, help="page to put the tables into")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
