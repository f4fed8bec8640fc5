"""Plan faults from a seed: which, when in the study's course, and for how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from faults.steps import RELEASE, TRIAL, Step

WORKER = "SIGKILL of a worker"
MACHINE = "SIGKILL of a worker and its training"
STEP = "SIGKILL at a named step"
DAMAGED = "checkpoint damaged, then SIGKILL"
REMOVED = "checkpoint removed, then SIGKILL"
KILLS = (WORKER, MACHINE, STEP, DAMAGED, REMOVED)

DRAIN = "SIGTERM (drain)"
PAUSE = "SIGSTOP past the lease, then SIGCONT"
RESTART = "PostgreSQL restarted"
CRASH = "PostgreSQL killed (SIGKILL)"
CUT = "all connections to PostgreSQL cut"
REFUSED = "PostgreSQL unreachable"
NO_MLFLOW = "MLflow unreachable"
MLFLOW_RESTART = "MLflow restarted"
SLOW = "MLflow slow"
ERRORS = "MLflow answers 500"
FULL = "artifact store full"
AWAY = "artifact store unreachable"
SKEWED = "worker with a clock one day ahead"

# kind -> (how many for 40 kills, shortest and longest duration in seconds)
OTHERS: dict[str, tuple[float, float, float]] = {
    DRAIN: (6, 0, 0),
    PAUSE: (4, 1, 3),  # beyond the lease
    RESTART: (1, 0.5, 3),
    CRASH: (1, 0.5, 3),
    CUT: (2, 0, 0),
    REFUSED: (1, 2, 6),
    NO_MLFLOW: (1, 3, 8),
    MLFLOW_RESTART: (0.5, 1, 3),
    SLOW: (1, 5, 10),
    ERRORS: (1, 3, 8),
    FULL: (1, 2, 6),
    AWAY: (1, 2, 6),
}
FIRST, LAST = 0.02, 0.85  # of the study: what comes later might find it finished


@dataclass(frozen=True)
class Fault:
    """One planned fault.

    Attributes:
        kind: one of the names above.
        share: of the study's epochs, when it is due.
        seconds: how long it lasts.
        step: where a process is to die.
        call: at which call of the step's function.
    """

    kind: str
    share: float
    seconds: float = 0.0
    step: Step | None = None
    call: int = 1


def plan(seed: int, kills: int, *, without: frozenset[str] = frozenset()) -> list[Fault]:
    """The faults of one study, the earliest first.

    Args:
        seed: the same one gives the same plan.
        kills: processes to be killed; half of them at named steps, each step in turn.
        without: kinds that are left out.
    """
    rng = random.Random(seed)

    def share() -> float:
        return round(rng.uniform(FIRST, LAST), 4)

    damages = max(1, kills // 20)
    kinds = [kind for kind in (DAMAGED, REMOVED) if kind not in without for _ in range(damages)]
    steps = 0 if STEP in without else kills // 2
    plain = max(0, kills - steps - len(kinds))
    kinds += [WORKER if rng.random() < 0.6 else MACHINE for _ in range(plain)]
    faults = [Fault(kind, share()) for kind in kinds]
    faults += [
        Fault(STEP, share(), step=step, call=1 if step in RELEASE else rng.randint(1, step.latest))
        for step in _in_turn(rng, steps)
    ]
    for kind, (count, shortest, longest) in OTHERS.items():
        for _ in range(0 if kind in without else max(1, round(count * kills / 40))):
            faults.append(Fault(kind, share(), round(rng.uniform(shortest, longest), 1)))
    return sorted(faults, key=lambda fault: fault.share)


def spaced(seed: int, kills: int) -> list[Fault]:
    """So many kills and as many drains in turn, at even distances: nothing overlaps."""
    rng = random.Random(seed)
    count = 2 * kills
    return [
        Fault(
            DRAIN if turn % 2 else rng.choice((WORKER, MACHINE)),
            round(FIRST + (LAST - FIRST) * turn / count, 4),
        )
        for turn in range(count)
    ]


def _in_turn(rng: random.Random, count: int) -> list[Step]:
    steps: list[Step] = []
    while len(steps) < count:
        steps += rng.sample(TRIAL, len(TRIAL))
    return steps[:count]
