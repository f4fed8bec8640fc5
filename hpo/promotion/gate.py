"""Compare a challenger with the champion on one test split, and decide by the study's rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpo.evaluation.significance import fewest_images, interval, measure_gain, unpaired
from hpo.promotion.evidence import ClassResult, FinalistResult, RuleResult, SeedResult
from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hpo.evaluation.detections import Detections
    from hpo.evaluation.record import EvaluationRecord
    from hpo.evaluation.significance import Gain
    from hpo.promotion.candidates import Finalist
    from hpo.promotion.champion_evaluation import EvaluatedChampion
    from hpo.promotion.evidence import Evidence
    from hpo.studies.spec import Promotion
    from hpo.studies.store import Study

PROMOTED, KEPT, INCONCLUSIVE = "promoted", "kept", "inconclusive"
_MISSING, _MEASURED = "not measured", "a figure"
# Many more images than there are is as good as never
_TOO_MANY = 1000
# 0.5 - 0.48 is a little more than 0.02
_ROUNDING = 1e-9
_ONE_PERCENT = 0.01
BY_LUCK = "chance of such a gain by luck alone"
_OF_LUCK, _HOW_OFTEN = " of luck", ": how often two equal models would show such a gain"


@dataclass(frozen=True)
class GateResult:
    """What the gate says.

    Attributes:
        outcome: `promoted`, `kept` (the champion stays) or `inconclusive`.
        reason: why, as a sentence part with figures.
        rules: each rule that holds for this challenger.
    """

    outcome: str
    reason: str
    rules: Sequence[RuleResult]


def judge(  # noqa: PLR0917 - two figures, their difference, and what they are figures of
    rules: Promotion,
    challenger: EvaluationRecord,
    champion: EvaluationRecord | None,
    difference: Gain | None,
    metric: str,
    direction: str,
) -> GateResult:
    """The outcome: promoted when every rule is met.

    Inconclusive is a gain that is large enough, but not sure enough, with every other rule met.
    Sure is one whose lower bound is above the least gain wanted and which equal models seldom show
    by luck: the bound alone knows of a least gain, the luck alone is exact for few images.

    Args:
        rules: of the study.
        challenger: its figures on the test split.
        champion: the present champion's on the same split; None where there is none.
        difference: of the two in the objective; None where they cannot be compared.
        metric: the objective's.
        direction: the objective's.
    """
    seen = [*_absolute(rules, challenger, champion, metric, direction)]
    if champion is not None:
        seen += [_gain(rules, difference), *_p_value(rules, difference)]
        seen += _classes(rules, challenger, champion)
    broken = [rule for rule in seen if not rule.met]
    value = challenger.metrics.get(metric, math.nan)
    if not broken:
        return GateResult(PROMOTED, _why_promoted(metric, value, challenger, difference), seen)
    unsure = difference is not None and difference.value > rules.min_gain
    names = {rule.rule for rule in broken}
    if unsure and names <= {"gain", "luck"}:
        return GateResult(INCONCLUSIVE, _why_inconclusive(rules, metric, difference), seen)
    # A gain that is not one says enough of its luck
    told = [rule for rule in broken if rule.rule != "luck" or "gain" not in names]
    return GateResult(KEPT, "; ".join(_unmet(rule, metric) for rule in told), seen)


def signed(difference: Gain) -> str:
    """The gain with its bounds."""
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def chance(p_value: float) -> str:
    """A small chance in words; never none."""
    return f"{100 * p_value:.1f}%" if p_value >= _ONE_PERCENT else f"{100 * p_value:.2g}%"


def images_needed(difference: Gain, min_gain: float) -> int | None:
    """About how many images would show such a gain, as an interval narrows with their root.

    None where that is more than a thousand times what there is.
    """
    width, room = difference.value - difference.low, difference.value - min_gain
    if room <= 0 or width / room > math.sqrt(_TOO_MANY):
        return None
    needed = difference.images * (width / room) ** 2
    # It rests on one sample: more than two figures would say more than is known
    return max(difference.images + 1, math.ceil(float(f"{needed:.1e}")))


def _absolute(
    rules: Promotion,
    it: EvaluationRecord,
    champion: EvaluationRecord | None,
    metric: str,
    direction: str,
) -> Iterator[RuleResult]:
    """The rules that need no champion."""
    least, rises = rules.min_value, direction == "maximize"
    if least is None and champion is None and rises:
        least = 0.0  # what finds nothing is no champion
    if least is not None or champion is None:
        wanted = _MEASURED if least is None else f"{'above' if rises else 'below'} {least:g}"
        edge = least if least is not None else math.inf
        value = it.metrics.get(metric, math.nan)
        met = value > edge if rises else value < edge
        yield _rule("value", wanted, _figure(value, ".4f"), met=met)
    if rules.max_latency_ms is not None:
        median = it.latency_ms.get("median", math.nan)
        seen = _figure(median, ".4g", f" ms on {it.device}" if it.device else " ms")
        met = median <= rules.max_latency_ms
        yield _rule("latency", f"at most {rules.max_latency_ms:g} ms", seen, met=met)
    if rules.max_size_mb is not None:
        size = it.weights_bytes / 1e6 or math.nan  # no weights have no bytes
        met = size <= rules.max_size_mb
        yield _rule(
            "size", f"at most {rules.max_size_mb:g} MB", _figure(size, ".4g", " MB"), met=met
        )


def _gain(rules: Promotion, difference: Gain | None) -> RuleResult:
    wanted = f"{_percent(rules.confidence)} lower bound above {rules.min_gain:g}"
    if difference is None:
        return _rule("gain", wanted, "not compared", met=False)
    # A skewed sample can have its bound above its value: both count
    met = min(difference.low, difference.value) > rules.min_gain
    return _rule("gain", wanted, signed(difference), met=met)


def _p_value(rules: Promotion, difference: Gain | None) -> Iterator[RuleResult]:
    """Equal models are promoted no more often than that, however few the images are."""
    if difference is None:
        return
    most = 1 - rules.confidence
    met = difference.p_value <= most + _ROUNDING
    wanted, seen = (
        f"at most {_percent(most)}{_OF_LUCK}",
        f"{chance(difference.p_value)}{_HOW_OFTEN}",
    )
    yield _rule("luck", wanted, seen, met=met)


def _classes(
    rules: Promotion, challenger: EvaluationRecord, champion: EvaluationRecord
) -> Iterator[RuleResult]:
    """No class may lose more than is allowed, by what was found of it."""
    limit = rules.max_class_loss
    if limit is None:
        return
    losses = {
        name: theirs.get("AP50", math.nan)
        - challenger.per_class.get(name, {}).get("AP50", math.nan)
        for name, theirs in champion.per_class.items()
    }
    wanted = f"no class loses more than {limit:g} AP50"
    unknown = sorted(name for name, loss in losses.items() if math.isnan(loss))
    if unknown or not losses:
        seen = f"{_MISSING}: {', '.join(unknown)}" if unknown else _MISSING
        yield _rule("classes", wanted, seen, met=False)
        return
    worst = max(losses, key=lambda name: losses[name])
    loss = losses[worst]
    yield _rule("classes", wanted, f"{worst} {-loss:+.4f}", met=loss <= limit + _ROUNDING)


def _why_promoted(
    metric: str, value: float, challenger: EvaluationRecord, difference: Gain | None
) -> str:
    images = f"on {challenger.images} test images"
    if difference is None:
        return f"it is the model's first champion: {metric} {value:.4f} {images}"
    return (
        f"better than the champion in {metric} by {signed(difference)} {images}, "
        f"each bound at {_percent(difference.confidence)}; {BY_LUCK}: {chance(difference.p_value)}"
    )


def _why_inconclusive(rules: Promotion, metric: str, difference: Gain | None) -> str:
    if difference is None:  # never so: the caller has seen that it is better
        raise ValueError("a gain that was not compared is not inconclusive")
    needed, fewest = images_needed(difference, rules.min_gain), fewest_images(rules.confidence)
    how_many = "far more" if needed is None else f"about {needed}"
    if difference.images < fewest:
        how_many = f"at least {fewest}"
    elif difference.low > rules.min_gain:  # the interval alone would do
        how_many = "somewhat more"
    return (
        f"better than the champion in {metric} by {signed(difference)}, but that may be luck: to "
        f"be {_percent(difference.confidence)} sure takes {how_many} test images, there are "
        f"{difference.images}; {BY_LUCK}: {chance(difference.p_value)}"
    )


def _unmet(rule: RuleResult, metric: str) -> str:
    names = {"value": metric, "gain": f"gain in {metric}", "luck": BY_LUCK}
    name = names.get(rule.rule, rule.rule)
    # The name says of the luck already what it is
    seen, wanted = rule.seen.removesuffix(_HOW_OFTEN), rule.wanted.removesuffix(_OF_LUCK)
    return f"{name} {seen}, wanted {wanted}"


def _rule(rule: str, wanted: str, seen: str, *, met: bool) -> RuleResult:
    return RuleResult(rule=rule, wanted=wanted, seen=seen, met=bool(met))


def _percent(confidence: float) -> str:
    return f"{100 * confidence:g}%"


def _figure(value: float, form: str, unit: str = "") -> str:
    return _MISSING if math.isnan(value) else f"{value:{form}}{unit}"


@dataclass(frozen=True)
class Comparison:
    """What the test split says.

    Attributes:
        result: of the gate.
        difference: challenger less champion; None without a champion, or where the two cannot
            be compared.
        incomparable: why they cannot be; "" when they can.
    """

    result: GateResult
    difference: Gain | None
    incomparable: str

    def added_to(self, evidence: Evidence) -> Evidence:
        """The evidence with what was found here."""
        return replace(
            evidence,
            reason=self.incomparable or self.result.reason,
            gain=self.difference,
            rules=tuple(self.result.rules),
            comparable=not self.incomparable,
        )


def compare(
    study: Study,
    evaluated: EvaluationRecord,
    detections: Detections | None,
    incumbent: EvaluatedChampion | None,
) -> Comparison:
    """The challenger (`evaluated`, `detections`) against the champion, None for none."""
    spec = study.spec
    rules, metric, direction = spec.promotion, spec.objective.metric, spec.objective.direction
    found, incomparable = None, ""
    if incumbent is not None:
        incomparable = _incomparable(metric, detections, incumbent.detections)
        if not incomparable and detections is not None and incumbent.detections is not None:
            found = measure_gain(
                detections, incumbent.detections, metric, direction=direction,
                resamples=rules.resamples, seed=rules.seed, confidence=rules.confidence,
            )  # fmt: skip
    champion = None if incumbent is None else incumbent.evaluated
    return Comparison(
        judge(rules, evaluated, champion, found, metric, direction), found, incomparable
    )


def _incomparable(metric: str, one: Detections | None, other: Detections | None) -> str:
    if metric not in DETECTION_METRICS:
        return f"{metric} cannot be computed from detections"
    if one is None or other is None:
        return "the trainer keeps no detections"
    return unpaired(one, other)


def finalists_evidence(
    study: Study, finalists: Sequence[Finalist], detections: Callable[[str], Detections | None]
) -> tuple[FinalistResult, ...]:
    """Every finalist with its figures and the interval of its value on the test split.

    Args:
        study: the study.
        finalists: the finalists, best by validation first.
        detections: gives the stored detections of a sha256; None where they are gone.
    """
    return tuple(_finalist(study, one, detections) for one in finalists)


def _finalist(
    study: Study, one: Finalist, detections: Callable[[str], Detections | None]
) -> FinalistResult:
    best = one.best(study).evaluated if one.runs else None
    sha256 = None if best is None else best.detections_sha256
    found = None if sha256 is None else detections(sha256)
    return FinalistResult(
        trial=one.candidate.number,
        value=one.value if one.runs else None,
        spread=one.spread,
        seeds=tuple(
            SeedResult(
                seed=run.seed, value=run.value, final=run.final, weights_sha256=run.weights_sha256
            )
            for run in one.runs
        ),
        evaluation=best,
        interval=_interval(study, found),
        out=one.out,
    )


def _interval(study: Study, found: Detections | None) -> tuple[float, float] | None:
    rules, metric = study.spec.promotion, study.spec.objective.metric
    if found is None or metric not in DETECTION_METRICS:
        return None
    return interval(
        found, metric,
        resamples=rules.resamples, seed=rules.seed, confidence=rules.confidence,
    )  # fmt: skip


def class_differences(
    evaluated: EvaluationRecord, incumbent: EvaluatedChampion | None
) -> tuple[ClassResult, ...]:
    """AP50 of each class, of the challenger and of the champion."""
    theirs = {} if incumbent is None else incumbent.evaluated.per_class
    rows = []
    for name, figures in evaluated.per_class.items():
        own, other = figures.get("AP50"), theirs.get(name, {}).get("AP50")
        gain = None if own is None or other is None else own - other
        rows.append(ClassResult(name=name, challenger=own, champion=other, difference=gain))
    return tuple(rows)
