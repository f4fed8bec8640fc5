"""Put the words and figures of a decision as people read them, alike in every document."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.evaluation.significance import Gain
from hpo.promotion.evidence import NOT_EVALUATED, ChampionResult
from hpo.promotion.gate import BY_LUCK, chance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.evaluation.record import EvaluationRecord
    from hpo.promotion.decision import Decision
    from hpo.promotion.report.context import ReportContext

SIMULATED = "SIMULATED: the trainer made these figures up; no model was trained."
NO_FIGURE = "—"
_WORDS = {
    "promoted": "Promoted",
    "kept": "Kept",
    "inconclusive": "Inconclusive",
    "rolled_back": "Rolled back",
    "none": "Nothing to promote",
}
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Fact:
    """One figure to know first: what, how much, and what to make of it."""

    name: str
    value: str
    note: str = ""


def outcome_word(decision: Decision) -> str:
    """How the decision ended, in a word or two."""
    outcome = decision.outcome.value
    if outcome == "promoted" and decision.override:
        return "Promoted past the gate"
    if outcome == "kept" and decision.previous_version is None:
        return "Not promoted"
    return _WORDS[outcome]


def headline(decision: Decision) -> str:
    """What is so after the decision, in one sentence; the reason stands apart."""
    outcome, model, alias = decision.outcome.value, decision.model, decision.alias
    trial = f"trial {decision.trial} of {decision.study}"
    before = f"{model} version {decision.previous_version}"
    if outcome == "promoted":
        first = "" if decision.previous_version is not None else ", its first champion"
        version = f"{model} version {decision.version}" if decision.version else model
        return f"T{trial[1:]} is now {version}, alias {alias}{first}."
    if outcome == "rolled_back":
        where = "nothing" if decision.version is None else f"version {decision.version} again"
        return f"The alias {alias} of {model} points to {where}."
    if outcome == "none":
        return f"No trial of {decision.study} could be judged for {model}."
    if decision.previous_version is None:
        return f"{model} has no champion still: {trial} did not become one."
    if outcome == "inconclusive":
        return f"{before} stays {alias}: {trial} is not shown to be better."
    return f"{before} stays {alias}: {trial} does not take its place."


def by_person(decision: Decision) -> str:
    """Who decided against the gate, and what they said; "" where the reason says it too."""
    if not (decision.actor or decision.why) or (decision.why and decision.why in decision.reason):
        return ""
    how = "promoted past the gate" if decision.override else "decided"
    return f"{decision.actor or 'A person'} {how}: {decision.why or 'no reason was given'}"


def reason_sentence(decision: Decision) -> str:
    """The reason as a sentence of its own."""
    reason = decision.reason.strip()
    return f"Why: {reason}{'' if reason.endswith('.') else '.'}"


def figure(value: Any, digits: int = 4) -> str:
    """A figure; a dash where there is none."""
    return NO_FIGURE if _missing(value) else f"{value:.{digits}f}"


def signed(value: Any, digits: int = 4) -> str:
    """A difference with its sign; a dash where there is none."""
    return NO_FIGURE if _missing(value) else f"{value:+.{digits}f}"


def span(interval: Sequence[float | None] | None, *, sign: bool = False) -> str:
    """An interval as `[low, high]`; "" where there is none."""
    if not interval or any(_missing(end) for end in interval):
        return ""
    write = signed if sign else figure
    return f"[{write(interval[0])}, {write(interval[1])}]"


def counted(number: Any, noun: str) -> str:
    """How many of what there are: 1 trial, 2 trials."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(share: Any, digits: int = 0) -> str:
    """A share of one in percent; a dash where there is none."""
    return NO_FIGURE if _missing(share) else f"{share * 100:.{digits}f}%"


def confidence_percent(confidence: Any) -> str:
    """A confidence as few digits as it has: 95%, 99.5%."""
    return NO_FIGURE if _missing(confidence) else f"{confidence * 100:g}%"


def hours(seconds: float) -> str:
    """A time that machines spent."""
    if seconds >= _HOUR_S:
        return f"{seconds / _HOUR_S:.2f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"  # noqa: PLR2004 - a minute


def megabytes(size: Any) -> str:
    """A file's size in 10^6 bytes; a dash where it is not known."""
    return f"{size / 1e6:.2f} MB" if size else NO_FIGURE


def difference_sentence(context: ReportContext) -> str:
    """The gain on the test split with everything that belongs to it; "" where there is none."""
    found = context.evidence.gain
    if found is None:
        return ""
    return (
        f"Gain in {context.metric} on the same {counted(found.images, 'test image')}: "
        f"{signed(found.value)} {span((found.low, found.high), sign=True)}, "
        f"each bound at {confidence_percent(found.confidence)}; the probability of being better is "
        f"{percent(found.probability_better, 1)} ({found.method}, "
        f"{found.resamples} resamples of the images, seed {found.seed})"
        f"{_by_chance(found)}."
    )


def key_facts(context: ReportContext) -> list[Fact]:
    """What to know first, in the order in which it is asked."""
    evidence, metric = context.evidence, context.metric
    evaluation = context.evaluation or NOT_EVALUATED
    found, champion = evidence.gain or Gain(), evidence.champion or ChampionResult()
    better = percent(found.probability_better, 1)
    facts = [
        Fact(f"{metric} on the test split", figure(evidence.test_value), _own_span(context)),
        Fact("Gain over the champion", signed(found.value), _gain_note(found)),
        Fact("Probability of being better", better, _better_note(found)),
        Fact(
            "Champion on the same split", figure(champion.value),
            f"version {champion.version}" + (", evaluated again" if champion.evaluated else ""),
        ),
        Fact(
            f"{metric} in validation", figure(evidence.value), validation_note(context),
        ),
        Fact(
            "One image takes",
            f"{figure(evaluation.latency_ms.get('median'), 1)} ms",
            f"p95 {figure(evaluation.latency_ms.get('p95'), 1)} ms; {evaluation.device}",
        ),
        Fact("Weights", megabytes(evaluation.weights_bytes), _model_note(evaluation)),
    ]  # fmt: skip
    return [fact for fact in facts if not fact.value.startswith(NO_FIGURE)]


def validation_note(context: ReportContext, digits: int = 4) -> str:
    """Of which trainings the figure in validation is, and of which one the weights are."""
    evidence, seeds = context.evidence, seed_values(context.decision)
    epoch, seed = evidence.best_epoch, evidence.seed
    if len(seeds) < 2:  # noqa: PLR2004 - a mean of one is itself
        return f"best epoch {epoch}"
    own = f"{figure(None if seed is None else seeds.get(seed), digits)} at its best epoch, {epoch}"
    return f"mean of {len(seeds)} seeds; the weights are of seed {seed}: {own}"


def seed_values(decision: Decision) -> dict[int, float]:
    """The candidate's value in validation by the training's seed."""
    finalist = decision.evidence.finalist(decision.trial)
    return {} if finalist is None else finalist.seed_values


def test_images(context: ReportContext) -> int | None:
    """How many images the test split has; None where nothing was evaluated."""
    return None if context.evaluation is None else context.evaluation.images


def _own_span(context: ReportContext) -> str:
    return "" if context.finalist is None else span(context.finalist.interval)


def _gain_note(found: Gain) -> str:
    ends = span((found.low, found.high), sign=True)
    return f"{ends}, each bound at {confidence_percent(found.confidence)}" if ends else ""


def _better_note(found: Gain) -> str:
    images = counted(found.images, "image")
    return f"{found.resamples} resamples of {images}{_by_chance(found)}"


def _by_chance(found: Gain) -> str:
    """How often equal models show such a gain; "" for no gain, and where it was not asked."""
    if _missing(found.p_value) or not found.value > 0:
        return ""
    return f"; {BY_LUCK}: {chance(found.p_value)}"


def _model_note(evaluation: EvaluationRecord) -> str:
    parts = []
    if evaluation.parameters:
        parts.append(f"{evaluation.parameters / 1e6:.2f} M parameters")
    if evaluation.gflops:
        parts.append(f"{evaluation.gflops:.2f} GFLOPs")
    return ", ".join(parts)


def _missing(value: Any) -> bool:
    return value is None or not isinstance(value, int | float) or not math.isfinite(value)
