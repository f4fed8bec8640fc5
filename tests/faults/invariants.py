"""What must hold of every study after its run, whatever was done to it; each check says what broke.

A check gets a Record and yields a sentence with its evidence for each thing that is wrong.
"""

from __future__ import annotations

import re
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults import schedule
from faults.steps import PROMOTION
from support.training import Recorder, make_job

from workers.simulated.trainer import SimulatedTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.record import Record

ENDED = ("COMPLETE", "PRUNED", "FAIL")
CLOCKED = ("seconds",)  # figures that are of the clock, not of the training
TOLERANCE = 1e-6
DEATHS = 3  # silent ends without a new epoch that make a trial a failure
_EXCUSE_S = 12.0  # after a fault, until the slowest retry has come


def budget_is_exact(record: Record) -> Iterator[str]:
    """As many trials as the budget has, all of them ended, each one once."""
    leases, budget = record.leases, record.study.spec.budget.trials
    if len(leases) != budget:
        yield f"{len(leases)} trials were made for a budget of {budget}"
    for row in leases:
        if row.state not in ENDED or row.told_at is None:
            yield f"trial {row.number} is {row.state}, told at {row.told_at}"
        ends = [one for one in record.of("trials", trial=row.trial_id)
                if one.after["state"] in ENDED]  # fmt: skip
        if len(ends) != 1:
            yield f"trial {row.number} ended {len(ends)} times"


def writes_are_fenced(record: Record) -> Iterator[str]:
    """Each write for a trial named the token that held its lease at that moment."""
    for one in record.log:
        if one.what not in ("epoch", "checkpoint", "artifact", "lease", "trials"):
            continue
        if one.op == "DELETE" or not _is_holders(record, one):
            continue
        if one.caller is None or one.caller != one.holder:
            yield (f"event {one.id}: {one.op} of {one.what}, trial {record.numbers[one.trial]}, by "
                   f"{one.caller} while {one.holder} held the lease")  # fmt: skip


def _is_holders(record: Record, one: Any) -> bool:
    """Whether only the lease's holder may write this: others claim trials, and give them up."""
    if one.what == "trials":
        reasons = (row.reason for row in record.leases if row.trial_id == one.trial)
        return one.after["state"] in ENDED and not _gave_up(next(reasons, None))
    if one.what == "lease":
        claimed = one.op == "INSERT" or one.before["token"] != one.after["token"]
        return not claimed and not _gave_up(one.after["reason"])
    return True


def _gave_up(reason: str | None) -> bool:
    """Whether a claim ended the trial, after three deaths; its statement names the claimant."""
    return re.match(r"crashed: \d+ workers in a row", reason or "") is not None


def only_dead_trials_are_taken_over(record: Record) -> Iterator[str]:
    """A lease changes hands when it is given back or has run out."""
    for one in record.of("lease"):
        if one.op != "UPDATE" or one.before["token"] == one.after["token"]:
            continue
        expires = datetime.fromisoformat(one.before["expires_at"]).timestamp()
        if not one.before["released"] and expires > one.at:
            yield (f"event {one.id}: trial {record.numbers[one.trial]} was taken from "
                   f"{one.holder} {expires - one.at:.2f} s before its lease ran out")  # fmt: skip


def repeated_epochs_are_equal(record: Record) -> Iterator[str]:
    """An epoch that was trained again has the figures that it had before."""
    for one in record.of("epoch"):
        if one.op == "UPDATE":
            yield from _unequal(
                f"trial {record.numbers[one.trial]}, epoch {one.after['epoch']}, trained again",
                one.before["metrics"], one.after["metrics"],
            )  # fmt: skip


def _unequal(where: str, first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if name in CLOCKED or a == b:
            continue
        if a is None or b is None or abs(a - b) > TOLERANCE:
            yield f"{where}: {name} was {a} and is {b}"


def epochs_are_whole(record: Record) -> Iterator[str]:
    """A trial has every epoch from the first to its last, a complete one all of them."""
    for row in record.leases:
        numbers = sorted(record.epochs[row.trial_id])
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"trial {row.number} has the epochs {numbers}"
        if row.state == "COMPLETE" and len(numbers) != record.ordeal.task.epochs:
            yield f"trial {row.number} is complete with {len(numbers)} epochs"


def values_are_of_the_best_epoch(record: Record) -> Iterator[str]:
    """A trial's value is that of its best epoch, the earliest on a tie."""
    objective = record.study.spec.objective
    for row in record.leases:
        own = [one.after["epoch"] for one in record.of("epoch", trial=row.trial_id)
               if one.caller == row.token]  # fmt: skip
        if row.state == "FAIL" or not own:
            continue
        told = {epoch: metrics[objective.metric] for epoch, metrics in
                record.epochs[row.trial_id].items() if epoch <= max(own)}  # fmt: skip
        sign = -1 if objective.direction == "maximize" else 1
        best = min(told, key=lambda epoch: (sign * told[epoch], epoch))
        if (row.best_epoch, row.value, row.told_value) != (best, told[best], told[best]):
            yield (f"trial {row.number} was told {row.value} of epoch {row.best_epoch}, Optuna has "
                   f"{row.told_value}; its best is {told[best]} of epoch {best}")  # fmt: skip


def failures_are_three_deaths(record: Record) -> Iterator[str]:
    """No trial fails but one whose workers died three times without a new epoch, and that one does.

    No training raises in these studies: every other failure was made by the faults.
    """
    for row in record.leases:
        deaths = 0
        for one in record.log:
            if one.trial != row.trial_id:
                continue
            if one.what == "epoch" and one.op == "INSERT":
                deaths = 0
            elif one.what == "attempt" and one.op == "INSERT" and deaths >= DEATHS:
                yield f"trial {row.number} was handed out again after {deaths} deaths"
            elif (one.what == "attempt" and one.op == "UPDATE" and one.before["ended"] is None
                  and one.after["ended"] == "silent"):  # fmt: skip
                deaths += 1
        if row.state == "FAIL" and (deaths != DEATHS or not _gave_up(row.reason)):
            yield f"trial {row.number} failed after {deaths} deaths: {row.reason}"


def workers_left_in_order(record: Record) -> Iterator[str]:
    """A worker that nobody killed left by itself, with exit code 0.

    One that starts while PostgreSQL or the store is away may say so instead (2 or 3).
    """
    away = record.windows(schedule.RESTART, schedule.CRASH, schedule.CUT, schedule.REFUSED,
                          schedule.FULL, schedule.AWAY)  # fmt: skip
    for crew in record.ordeal.crews:
        code = crew.process.returncode
        died = crew.killed or crew.mark.exists()
        if code == 0 or (code == -9 and died):
            continue
        ended = crew.ended or 0.0
        if code in (2, 3) and any(a - 1 <= ended <= b + _EXCUSE_S for a, b in away):
            continue
        tail = crew.log.read_text(errors="replace")[-600:]
        yield f"worker {crew.pid} left with exit code {code}: {tail}"


def promotion_died_everywhere(record: Record) -> Iterator[str]:
    """The promotion was really interrupted at each of its steps."""
    seen = record.ordeal.promotion_kills
    if seen and (missed := [str(step) for step in PROMOTION if step not in seen]):
        yield f"nothing died at: {', '.join(missed)}"


def figures_are_those_of_an_uninterrupted_training(record: Record) -> Iterator[str]:
    """Every recorded figure of a simulated trial equals the uninterrupted training's."""
    spec = record.study.spec
    if spec.trainer != "simulated":
        return
    with tempfile.TemporaryDirectory() as folder:
        for row in record.leases:
            job = make_job(
                Path(folder) / str(row.number), params=record.params[row.number],
                train={**spec.train, "epoch_s": 0.0}, epochs=record.ordeal.task.epochs,
                seed=spec.seed,
            )  # fmt: skip
            whole = Recorder()
            SimulatedTrainer().train(job, whole)
            for epoch in whole.epochs:
                kept = record.epochs[row.trial_id].get(epoch.number)
                wrong = {name: (kept[name], figure) for name, figure in epoch.metrics.items()
                         if name != "seconds" and kept and kept[name] != figure}  # fmt: skip
                if wrong:
                    yield f"trial {row.number}, epoch {epoch.number}: (kept, whole) {wrong}"


CHECKS: tuple[Callable[[Record], Iterator[str]], ...] = (
    budget_is_exact,
    writes_are_fenced,
    only_dead_trials_are_taken_over,
    repeated_epochs_are_equal,
    epochs_are_whole,
    values_are_of_the_best_epoch,
    failures_are_three_deaths,
    workers_left_in_order,
    promotion_died_everywhere,
    figures_are_those_of_an_uninterrupted_training,
)
