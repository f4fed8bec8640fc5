"""The tables of a decision's record as texts, to be rendered as Markdown or HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.promotion.evidence import NOT_EVALUATED, Cost
from hpo.promotion.report.context import best_baseline, ranked
from hpo.promotion.report.formatting import (
    NO_FIGURE,
    counted,
    figure,
    hours,
    megabytes,
    signed,
    span,
)
from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.evaluation.record import EvaluationRecord
    from hpo.promotion.evidence import FinalistResult
    from hpo.promotion.report.context import ReportContext

SHOWN_TRIALS = 10
_NUMBER = re.compile(r"[-+]?[\d.,]+(%| ms| MB| h| s| min)?( ± [\d.]+)?|—|")
# Intervals are in the plot above it
_DETAILS = ("interval", "precision on test", "recall on test", "ms p95", "parameters", "GFLOPs")
DIGITS = 5  # of validation figures, which are compared with those of `hpo trials`


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        caption: what it shows.
        head: the columns' titles.
        rows: a text for each column.
        marked: indices of rows that stand out.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether figures alone stand in it."""
        return [all(map(_NUMBER.fullmatch, column)) for column in zip(*self.rows, strict=True)]


def rules(context: ReportContext) -> Table | None:
    """Each rule of the gate, and how it was met."""
    found = context.evidence.rules
    rows = tuple((one.rule, one.wanted, one.seen, "met" if one.met else "NOT met") for one in found)
    broken = frozenset(at for at, rule in enumerate(found) if not rule.met)
    head = ("rule", "wanted", "seen", "met")
    return Table("How each was met", head, rows, broken) if rows else None


def finalists(context: ReportContext, *, brief: bool = False) -> Table | None:
    """The finalists with their figures on the test split, and the champion below them.

    Args:
        context: the decision.
        brief: without what a page has no room for.
    """
    found = context.evidence.finalists
    if not found:
        return None
    metric = context.metric
    others = tuple(name for name in DETECTION_METRICS if name != metric)
    head = (
        "trial", "note", f"{metric} in validation", "seeds", f"{metric} on test", "interval",
        *(f"{name} on test" for name in others), "ms median", "ms p95", "parameters", "GFLOPs",
        "size",
    )  # fmt: skip
    rows = [
        (
            str(one.trial), _note(one, context.decision.trial), _mean(one), _seeds(one),
            *_tested(one.evaluation, metric, others, span(one.interval)),
        )
        for one in found
    ]  # fmt: skip
    marked = {at for at, one in enumerate(found) if one.trial == context.decision.trial}
    champion = context.evidence.champion
    if champion is not None and champion.evaluation is not None:
        tested = _tested(champion.evaluation, metric, others, "")
        replaced = context.decision.outcome.value == "promoted"
        who = "champion before" if replaced else "champion"
        rows.append((f"version {champion.version}", who, "", "", *tested))
    caption = "The finalists, best in validation first"
    table = Table(caption, head, tuple(rows), frozenset(marked))
    return _without(table, _DETAILS) if brief else table


def classes(context: ReportContext) -> Table | None:
    """AP50 of each class, of the challenger and of the champion where there is one."""
    found = context.evidence.classes
    if not found:
        return None
    boxes = _true_boxes(context)
    rows = tuple(
        (
            one.name, str(boxes.get(one.name, NO_FIGURE)), figure(one.challenger),
            figure(one.champion), signed(one.difference),
        )
        for one in found
    )  # fmt: skip
    head = ("class", "true boxes", "AP50 challenger", "AP50 champion", "difference")
    table = Table("Each class on the test split", head, rows)
    alone = all(one.champion is None for one in found)
    return _without(table, head[3:]) if alone else table


def trials(context: ReportContext) -> Table | None:
    """The study's best trials with their figures in validation and their parameters."""
    best = ranked(context.study, context.trials)[:SHOWN_TRIALS]
    if not best:
        return None
    metric = context.metric
    shown = [
        name
        for name in DETECTION_METRICS
        if name != metric and any(name in one.metrics for one in best)
    ]
    names = list(dict.fromkeys(name for one in best for name in one.params))
    rows = tuple(
        (
            str(one.number), one.state.lower(), figure(one.value, DIGITS), _text(one.best_epoch),
            *(figure(one.metrics.get(name), DIGITS) for name in shown),
            *(_text(one.params.get(name)) for name in names),
        )
        for one in best
    )  # fmt: skip
    head = ("trial", "state", metric, "best epoch", *shown, *names)
    return Table("The best trials, in validation", head, rows)


def parameters(context: ReportContext) -> Table | None:
    """The challenger's parameters."""
    found = context.evidence.params or {}
    rows = tuple((name, _text(value)) for name, value in found.items())
    return Table("Its parameters", ("parameter", "value"), rows) if rows else None


def cost(context: ReportContext) -> Table | None:
    """Time spent, by kind of device; finals are evaluated on the test split too."""
    spent = context.evidence.cost or Cost()
    of_trials, of_finals = spent.trials_s, spent.finals_s
    kinds = sorted({*of_trials, *of_finals})
    rows = tuple(
        (
            kind.upper(), hours(of_trials.get(kind, 0.0)), hours(of_finals.get(kind, 0.0)),
            f"{(of_trials.get(kind, 0.0) + of_finals.get(kind, 0.0)) / 3600:.3f} h",
        )
        for kind in kinds
    )  # fmt: skip
    head = ("device", "trials", "finals", "together")
    caption = "Time that the devices spent in training, validation and evaluation"
    return Table(caption, head, rows) if rows else None


def cost_sentence(context: ReportContext) -> str:
    """How many trials there were, and what their epochs took; the finals are not among them."""
    states: dict[str, int] = {}
    for trial in context.trials:
        state = "failed" if trial.state == "FAIL" else trial.state.lower()
        states[state] = states.get(state, 0) + 1
    if not states:
        return "No trial ended."
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    spent = sum(trial.train_s for trial in context.trials)
    trials = counted(len(context.trials), "trial")
    return f"{trials} ({counts}), {spent:.1f} s of training and validation without the finals."


def baseline_sentence(context: ReportContext) -> str:
    """The gain in validation over the best baseline, each by its one training in the study.

    A mean over the seeds of the finals is no match for it: a baseline has no such mean.
    """
    best, number = best_baseline(context.study, context.trials), context.decision.trial
    if best is None or best.value is None:
        return "no baseline ran to compare with"
    state = "" if best.state == "COMPLETE" else f", {best.state.lower()}"
    baseline = f"baseline: {figure(best.value, DIGITS)} (trial {best.number}{state})"
    value = next((one.value for one in context.trials if one.number == number), None)
    if value is None:
        return baseline
    gain = signed(context.study.spec.objective.sign * (value - best.value), DIGITS)
    return f"{baseline}; gain {gain} by {figure(value, DIGITS)} of trial {number} in the study"


def identity(context: ReportContext) -> Table:
    """Every name by which the decision and what it is about are found again."""
    evidence, study, decision = context.evidence, context.study, context.decision
    trial = None if decision.trial is None else str(decision.trial)
    version = decision.version if decision.outcome.value == "promoted" else None
    rows = (
        ("decision", context.decision_id), ("model", f"{decision.model}@{decision.alias}"),
        ("version", version), ("champion before", _version(decision.previous_version)),
        ("champion after", _version(decision.version)),
        ("study", study.name), ("study uid", study.uid), ("trial", trial),
        ("MLflow run", evidence.run_id), ("weights", evidence.weights_name),
        ("weights sha256", evidence.weights_sha256), ("spec sha256", study.spec_sha256),
        ("dataset fingerprint", study.fingerprint or "none, the trainer needs no data"),
        ("test split fingerprint", evidence.test_fingerprint or study.test_fingerprint),
        ("trainer", f"{study.spec.trainer} ({study.code_version}), model {study.spec.model}"),
    )  # fmt: skip
    kept = tuple((name, str(value)) for name, value in rows if value not in (None, ""))
    return Table("By these it is found again", ("what", "which"), kept)


def _without(table: Table, titles: Sequence[str]) -> Table:
    """The table without some of its columns."""
    kept = [at for at, title in enumerate(table.head) if title not in titles]
    head = tuple(table.head[at] for at in kept)
    rows = tuple(tuple(row[at] for at in kept) for row in table.rows)
    return replace(table, head=head, rows=rows)


def _version(number: int | None) -> str | None:
    return None if number is None else f"version {number}"


def _tested(
    evaluation: EvaluationRecord | None, metric: str, others: Sequence[str], interval: str
) -> tuple[str, ...]:
    """An evaluation's cells of the table of finalists."""
    evaluation = evaluation or NOT_EVALUATED
    metrics, latency = evaluation.metrics, evaluation.latency_ms
    parameters, gflops = evaluation.parameters, evaluation.gflops
    return (
        figure(metrics.get(metric)), interval, *(figure(metrics.get(name)) for name in others),
        figure(latency.get("median"), 1), figure(latency.get("p95"), 1),
        f"{parameters:,}" if parameters else NO_FIGURE, figure(gflops, 2),
        megabytes(evaluation.weights_bytes),
    )  # fmt: skip


def _mean(finalist: FinalistResult) -> str:
    spread = finalist.spread
    return figure(finalist.value) + ("" if spread is None else f" ± {figure(spread)}")


def _seeds(finalist: FinalistResult) -> str:
    return ", ".join(
        f"{seed}:\N{NO-BREAK SPACE}{figure(value)}" for seed, value in finalist.seed_values.items()
    )


def _note(finalist: FinalistResult, challenger: int | None) -> str:
    if finalist.out:
        return f"out: {finalist.out}"
    return "challenger" if finalist.trial == challenger else ""


def _true_boxes(context: ReportContext) -> dict[str, int]:
    found = context.challenger
    if found is None:
        return {}
    counts = np.bincount(found.true_kind, minlength=len(found.names))
    return {name: int(count) for name, count in zip(found.names, counts, strict=False)}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
