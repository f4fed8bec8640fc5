"""Run one study by a fleet of workers under a plan of faults, to its promotion."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from faults import audit, schedule
from faults.fleet import Crew, Fleet
from faults.injection import Injector
from faults.steps import PROMOTION, Step
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from faults.schedule import Fault
    from faults.world import World

STUCK_S = 240.0  # without one new epoch of the whole study
LEAVE_S = 180.0  # for the workers of a finished study
TICK_S = 0.05
LOOK_S = 0.3


@dataclass(frozen=True)
class Task:
    """A study to run.

    Attributes:
        name: of the study, its registered model and its experiment.
        document: the study file, but for its name.
        workers: how many at once.
        seed: of the plan.
    """

    name: str
    document: dict[str, Any]
    workers: int
    seed: int

    @property
    def epochs(self) -> int:
        """Of each trial."""
        return int(self.document["budget"]["epochs"])


@dataclass
class Ordeal:
    """What became of a task.

    Attributes:
        task: it.
        faults: what was injected, but for kills at steps.
        crews: every worker process.
        spoilt: (token, sha256) of checkpoint files that were damaged or removed -> when.
        promotion_kills: the steps of the promotion at which a process died.
        left_out: planned faults that the study left no room for.
        complaints: what went wrong on the way, with its evidence.
        seconds: from the first worker's start to the last one's end.
    """

    task: Task
    faults: list[Any] = field(default_factory=list)
    crews: list[Crew] = field(default_factory=list)
    spoilt: dict[tuple[str, str], float] = field(default_factory=dict)
    promotion_kills: list[Step] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    seconds: float = 0.0


def create(world: World, task: Task) -> None:
    """Make the study.

    Raises:
        RuntimeError: it was refused.
    """
    file = world.folder / f"{task.name}.yaml"
    promotion = {"model": task.name, "alias": "champion"}
    file.write_text(yaml.safe_dump({"study": task.name, **task.document, "promotion": promotion}))
    code, said = world.run("create-study", str(file))
    if code != 0:
        raise RuntimeError(f"hpo create-study: exit code {code}\n{said}")


def run(
    world: World,
    task: Task,
    faults: list[Fault],
    *,
    promotion: bool = True,
    finalize: bool = True,
    **env: str,
) -> Ordeal:
    """Run a created study through the faults, and promote its best trial.

    Args:
        world: where.
        task: the study.
        faults: the plan.
        promotion: whether processes are killed at the steps of the promotion too.
        finalize: whether to promote by hand at the end, should no worker have done it.
        env: more variables of the workers.
    """
    fleet = Fleet(world, task.name, task.workers)
    fleet.more_env = env
    fleet.last_step = PROMOTION[0] if promotion else None
    injector = Injector(world, fleet, task.name, random.Random(task.seed))
    ordeal = Ordeal(task, injector.done, fleet.crews, injector.spoilt)
    began = time.monotonic()
    try:
        _besiege(world, fleet, injector, list(faults), ordeal)
        injector.heal()
        if not fleet.wait(LEAVE_S):
            stuck = ", ".join(str(crew.log) for crew in fleet.living)
            ordeal.complaints.append(f"workers of the finished study do not leave: {stuck}")
    finally:
        injector.heal()
        fleet.end()
    ordeal.seconds = time.monotonic() - began
    ordeal.left_out += [schedule.STEP for _ in fleet.to_die]
    if promotion:
        _die_promoting(world, ordeal, env)
    code, said = world.run("finalize", "--study", task.name, **env) if finalize else (0, "")
    if code != 0:
        ordeal.complaints.append(f"hpo finalize: exit code {code}\n{said}")
    return ordeal


def _besiege(
    world: World, fleet: Fleet, injector: Injector, faults: list[Fault], ordeal: Ordeal
) -> None:
    """Until the study is finished: keep the fleet alive and inject what is due."""
    share, moved, looked = 0.0, time.monotonic(), 0.0
    for fault in [one for one in faults if one.step is not None and not one.share]:
        injector.begin(fault)  # the very first worker is to die
        faults.remove(fault)
    while True:
        fleet.tick()
        injector.tick()
        now = time.monotonic()
        if now - looked >= LOOK_S:
            looked = now
            try:
                found = audit.progress(world.engine, ordeal.task.name, ordeal.task.epochs)
            except DBAPIError:
                found = None  # PostgreSQL is away, as planned
            if found is not None and found.share != share:
                share, moved = found.share, now
                tell(f"{ordeal.task.name}: {found.ended}/{found.budget} trials, {len(faults)} "
                     f"faults to come, {len(fleet.living)} workers")  # fmt: skip
            if found is not None and found.ended >= found.budget:
                break
            for fault in [one for one in faults if one.share <= share]:
                if injector.begin(fault):
                    faults.remove(fault)
        if now - moved > STUCK_S:
            logs = ", ".join(str(crew.log) for crew in fleet.living)
            ordeal.complaints.append(f"the study does not go on for {STUCK_S:.0f} s: {logs}")
            fleet.end()
            break
        time.sleep(TICK_S)
    ordeal.left_out += [fault.kind for fault in faults]


def _die_promoting(world: World, ordeal: Ordeal, env: dict[str, str]) -> None:
    """Die at each step of the promotion in turn."""
    name = ordeal.task.name
    first = PROMOTION[:1] if any(_died_at(crew, PROMOTION[0]) for crew in ordeal.crews) else ()
    ordeal.promotion_kills += first
    for step in PROMOTION[len(first) :]:
        mark = world.folder / f"mark-{step.function.rpartition('.')[2]}-{step.place}-{name}"
        own = {"HPO_TEST_KILL": step.text(), "HPO_TEST_MARK": str(mark)}
        world.run("finalize", "--study", name, **env, **own)
        if mark.exists():
            ordeal.promotion_kills.append(step)
        tell(f"{name}: killed {step}" if mark.exists() else f"{name}: not reached: {step}")


def _died_at(crew: Crew, step: Step) -> bool:
    return crew.mark.exists() and step.text() in crew.mark.read_text()


def tell(line: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()
