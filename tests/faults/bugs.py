"""Bugs planted one by one, each of which must break the invariant that watches over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from faults import audit, invariants, orphans, schedule, studies, work
from faults.ordeal import create, run, tell
from faults.record import Record
from faults.schedule import Fault
from faults.steps import TRIAL
from faults.world import World
from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

# Reached with a trial in hand only: a claim may also be answered with «wait»
WITH_TRIAL = next(step for step in TRIAL if step.name == "the parameters are stored")
SAID_CHARS = 160


@dataclass(frozen=True)
class Bug:
    """A bug and the short run that shows it.

    Attributes:
        name: what is wrong.
        check: the invariant that must break.
        faults: that bring it to light.
        functions: of the database: name -> {text of its source: what stands there instead}.
        plant: of planted_bugs.py, in the processes; "" for none.
        workers: how many.
        trials: of the study.
        promotion: whether processes die at the steps of the promotion.
    """

    name: str
    check: Callable[[Record], Iterator[str]]
    faults: tuple[Fault, ...] = ()
    functions: dict[str, dict[str, str]] = field(default_factory=dict)
    plant: str = ""
    workers: int = 2
    trials: int = 4
    promotion: bool = False


def _at(kind: str, *shares: float, seconds: float = 0.0) -> tuple[Fault, ...]:
    return tuple(Fault(kind, share, seconds) for share in shares)


BUGS: tuple[Bug, ...] = (
    Bug(
        "the fence does not look at the token", invariants.writes_are_fenced,
        faults=_at(schedule.PAUSE, 0.05, 0.3, seconds=1.5),
        functions={"guard": {"l.token = p_token and": ""}},
        workers=3, trials=2,  # one waits, and takes over while the paused one still sleeps
    ),
    Bug(
        "content is not checked", work.takeovers_continue,
        faults=_at(schedule.DAMAGED, 0.1, 0.3, 0.5), plant="content is not checked",
    ),
    Bug(
        "a version is not looked up", orphans.promotion_is_one, plant="a version is not looked up",
        trials=2, promotion=True,
    ),
    Bug(
        "leases are taken before they run out", invariants.only_dead_trials_are_taken_over,
        functions={"claim": {"l.expires_at <= hpo.now()": "true",
                             "or held.expires_at > hpo.now()": ""}},
    ),
    Bug(
        "checkpoints are not recorded", work.work_is_kept,
        faults=_at(schedule.WORKER, 0.2, 0.4), plant="checkpoints are not recorded",
    ),
    Bug(
        "deaths are not counted", invariants.failures_are_three_deaths,
        faults=tuple(Fault(schedule.STEP, 0.0, step=WITH_TRIAL) for _ in range(4)),
        functions={"claim": {"dead >= 3": "false"}}, workers=1, trials=1,
    ),
    Bug(
        "one trial too many is made", invariants.budget_is_exact,
        functions={"claim": {"claimed < s.trials": "claimed <= s.trials"}}, trials=2,
    ),
)  # fmt: skip


def see_all(folder: Path, seed: int, bugs: tuple[Bug, ...] = BUGS) -> tuple[
    list[tuple[str, str]], list[str]
]:  # fmt: skip
    """Plant each bug in a run of its own: ([(bug, the check that saw it)], those not seen)."""
    seen, unseen = [], []
    with World(folder, server=False) as world:
        audit.install(world.engine)
        for number, bug in enumerate(bugs):
            evidence = see(world, bug, f"bug-{number}", seed)
            if evidence is None:
                unseen.append(f"the planted bug was not seen: {bug.name}")
            else:
                seen.append((bug.name, bug.check.__name__.replace("_", " ")))
            tell(f"{bug.name}: {'NOT SEEN' if evidence is None else evidence[:SAID_CHARS]}")
    return seen, unseen


def see(world: World, bug: Bug, study: str, seed: int) -> str | None:
    """Run a study with the bug: the first evidence of the check's; None when it saw nothing."""
    task = studies.simulated(
        study, seed, trials=bug.trials, workers=bug.workers, pruner={"name": "none"}
    )
    env = {"HPO_TEST_PLANT": bug.plant.replace(" ", "_")} if bug.plant else {}
    create(world, task)
    real = {name: _source(world.engine, name) for name in bug.functions}
    try:
        for name, changes in bug.functions.items():
            _put(world.engine, _changed(real[name], changes))
        ordeal = run(
            world, task, list(bug.faults), promotion=bug.promotion, finalize=bug.promotion, **env
        )
    finally:
        for source in real.values():
            _put(world.engine, source)
    return next(iter(bug.check(Record(world, ordeal))), None)


def _source(engine: Engine, name: str) -> str:
    sql = text("select pg_get_functiondef(cast(:name as regproc))")
    with engine.connect() as connection:
        return str(connection.execute(sql, {"name": f"hpo.{name}"}).scalar_one())


def _changed(source: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        if old not in source:
            raise ValueError(f"the function has no {old!r} to be changed:\n{source}")
        source = source.replace(old, new)
    return source


def _put(engine: Engine, source: str) -> None:
    # The driver's own cursor takes the text as it is; SQLAlchemy would read its percent signs
    with engine.begin() as connection:
        connection.connection.cursor().execute(source)
