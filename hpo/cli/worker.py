"""`hpo worker`: one worker in this process, and what a person sees of it."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.errors import INTERRUPTED
from hpo.cli.terminal.options import (
    COUNT,
    checkpoint_option,
    grace_option,
    json_option,
    print_json,
    stall_option,
    study_option,
    with_checkpoints,
)
from hpo.cli.terminal.signals import drain_on_signals
from hpo.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.settings import Settings
    from hpo.studies.store import Study
    from workers.events import Event
    from workers.study_loop import WorkerSummary

NEXT = {
    "limit": "its limit is reached",
    "timeout": "its time is over",
    "all claimed": "all trials are claimed, some still run elsewhere",
    "finished": "the study is finished",
    "stopped": "the study is stopped; `hpo resume` goes on",
    "deleted": "the study was deleted",
    "drained": "it was asked to leave; its trial can be taken over",
}


@click.command()
@click.option("--n-trials", type=COUNT, metavar="N", help="Leave after ending this many trials.")
@click.option("--timeout", metavar="T", help="Claim no more after this time, e.g. 90s or 1h30m.")
@click.option("--no-wait", is_flag=True, help="With everything claimed, leave instead of waiting.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@stall_option
@grace_option
@checkpoint_option
@study_option
@json_option
def worker(
    *,
    n_trials: int | None,
    timeout: str | None,
    no_wait: bool,
    device: str,
    stall_timeout: str,
    grace: str,
    checkpoint_every: int | None,
    study_name: str | None,
    as_json: bool,
) -> int:
    """Run one worker here: it claims trials and trains them until the study is finished.

    Ctrl-C and SIGTERM leave at the end of the epoch, or when --grace is over, and give the trial
    back: another worker goes on from its checkpoint at once. A second signal leaves now.
    """
    from workers.study_loop import Limits
    from workers.worker import Worker

    limits = Limits(n_trials, seconds_of("--timeout", timeout), wait=not no_wait)
    stall_timeout_s = seconds_of("--stall-timeout", stall_timeout)
    grace_s = seconds_of("--grace", grace, zero=True) or 0.0
    settings, study = _choose(study_name)
    settings = with_checkpoints(settings, checkpoint_every)
    logging.basicConfig(level=logging.WARNING, format="hpo: %(message)s", stream=sys.stderr)
    shown = _Lines(study, sys.stderr if as_json else sys.stdout)
    one = Worker(
        settings, study.name, limits=limits, device=device, watch=shown,
        stall_timeout_s=stall_timeout_s, grace_s=grace_s,
    )  # fmt: skip
    heard = drain_on_signals(one.drain, "leaving at the end of this epoch")
    summary = one.run()
    _say_end(settings, study, summary, as_json=as_json)
    # Ctrl-C ends a script's `hpo worker && …` too; SIGTERM asks to leave, and this did.
    return INTERRUPTED if summary.why == "drained" and signal.SIGINT in heard else 0


def _choose(name: str | None) -> tuple[Settings, Study]:
    from hpo.cli.terminal.context import opened, require_open, the_study

    with opened() as (settings, engine):
        study = the_study(settings, engine, name, writing=True)
        require_open(study)
        return settings, study


def seconds_of(option: str, text: str | None, *, zero: bool = False) -> float | None:
    """Seconds of an option's text like `90s`, `45m` or `1h30m`, and of `0s` where `zero` is one.

    Raises:
        UsageError: it is no duration.
    """
    from hpo.studies.fields import seconds

    if text is None:
        return None
    if zero and text.strip() in ("0", "0s"):
        return 0.0
    value = seconds(text)
    if value is None:
        raise UsageError(f"{option} {text!r} is no duration like 90s, 45m or 1h30m, up to 3650d")
    return value


class _Lines:
    """One line an epoch, with the best value so far and the time to go."""

    def __init__(self, study: Study, stream: Any) -> None:
        self._spec, self._stream = study.spec, stream
        self._best: float | None = None
        self._at, self._before = time.monotonic(), 0  # when, and after which epoch, it began here

    def __call__(self, event: Event) -> None:
        for line in self._lines(event):
            click.echo(line, file=self._stream)

    def _lines(self, event: Event) -> Iterator[str]:
        from hpo.cli.terminal.views import number_text, params_text
        from workers.events import Kind

        if event.kind is Kind.CLAIMED:
            self._at, self._before = time.monotonic(), -1
            yield f"{event.what} {event.trial}: {params_text(event.params or {})}"
        elif event.kind is Kind.EPOCH and event.epoch and event.epochs:
            value = event.value
            if value is not None and math.isfinite(value):
                seen = [value] if self._best is None else [self._best, value]
                self._best = min(seen, key=self._spec.objective.rank_key)
            if self._before < 0:
                self._before = event.epoch - 1
            here = event.epoch - self._before
            left = (time.monotonic() - self._at) / here * (event.epochs - event.epoch)
            yield (
                f"{event.what} {event.trial}: epoch {event.epoch}/{event.epochs}  "
                f"{self._spec.objective.metric} {number_text(value)}  best here "
                f"{number_text(self._best)}  {left:.0f} s to go"
            )
        elif event.kind is Kind.ENDED:
            yield f"{event.what} {event.trial}: {event.text.lower()}"
        else:
            yield event.text


def _say_end(settings: Settings, study: Study, summary: WorkerSummary, *, as_json: bool) -> None:
    from sqlalchemy.exc import DBAPIError

    from hpo.cli.terminal.views import SIMULATED, number_text
    from hpo.storage.postgres.engine import connect
    from hpo.studies.status import status

    ended = {end.value.lower(): count for end, count in summary.ended.items()}
    if summary.why == "deleted":
        click.echo(f"hpo: the study '{study.name}' was deleted", err=True)
        if as_json:
            print_json({"ended": ended, "why": summary.why, "status": None})
        return
    try:
        engine = connect(settings)
        try:
            document = status(engine, study)
        finally:
            engine.dispose()
    except (ServiceError, DBAPIError) as error:
        # The worker has done its part: that PostgreSQL went away since fails nothing
        click.echo(f"hpo: left, {NEXT[summary.why]}; where the study stands: {error}", err=True)
        if as_json:
            print_json({"ended": ended, "why": summary.why, "status": None})
        return
    if as_json:
        print_json({"ended": ended, "why": summary.why, "status": document})
        return
    counts, budget = document["counts"], document["budget"]
    trials = "1 trial" if summary.count == 1 else f"{summary.count} trials"
    click.echo(f"This worker ended {trials} and leaves: {NEXT[summary.why]}.")
    over = counts["complete"] + counts["pruned"] + counts["failed"]
    line = f"{study.name}: {document['state']}, {over} of {budget['trials']} trials ended"
    if best := document["best"]:
        line += f", best {document['metric']} {number_text(best['value'])} (trial {best['number']})"
    click.echo(line + ".")
    if document["simulated"]:
        click.echo(f"{SIMULATED}.")
    click.echo(f"Next: {_next(document, study)}")


def _next(document: dict[str, Any], study: Study) -> str:
    if document["state"] == "finished":
        return (
            f"`hpo champion --study {study.name}`, `hpo trials --study {study.name}`, `hpo up` to "
            "look at it, or `hpo extend` for more trials."
        )
    if document["state"] == "stopped":
        return "`hpo resume`."
    return "`hpo status --watch`, or another `hpo worker`."
