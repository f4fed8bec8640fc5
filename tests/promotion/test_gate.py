"""The gate's outcomes, each with its reason and every rule that was looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.found import Drawn, draw

from hpo.evaluation.average_precision import figures
from hpo.evaluation.record import EvaluationRecord
from hpo.evaluation.significance import EXPANDED, Gain, measure_gain
from hpo.promotion.evidence import RuleResult
from hpo.promotion.gate import GateResult, chance, images_needed, judge
from hpo.studies.spec import Promotion

RULES = Promotion(model="model", alias="champion")
GAIN = Gain(
    value=0.05, low=0.01, high=0.09, probability_better=0.98, resamples=2000, seed=0,
    confidence=0.95, method=EXPANDED, images=100, p_value=0.021,
)  # fmt: skip


def evaluated(value: float = 0.5, **changes: Any) -> EvaluationRecord:
    fields: dict[str, Any] = {
        "metrics": {"mAP50": value},
        "images": 100,
        "per_class": {"bird": {"AP50": value}, "cat": {"AP50": value + 0.1}},
        "latency_ms": {"median": 12.5, "p95": 20.0},
        "device": "some CPU",
        "weights_bytes": 6_200_000,
    }
    return EvaluationRecord(weights_sha256="sha", test_fingerprint="print", **{**fields, **changes})


def judged(
    gain: Gain | None = GAIN, challenger: EvaluationRecord | None = None, **rules: Any
) -> GateResult:
    """A challenger against a champion of 0.45."""
    asked = replace(RULES, **rules)
    return judge(asked, challenger or evaluated(), evaluated(0.45), gain, "mAP50", "maximize")


def first(challenger: EvaluationRecord, direction: str = "maximize", **rules: Any) -> GateResult:
    """A challenger where there is no champion."""
    return judge(replace(RULES, **rules), challenger, None, None, "mAP50", direction)


def test_a_sure_gain_is_promoted() -> None:
    """The lower bound is above the gain that is asked for; rules not set are not listed."""
    result = judged()
    assert result.outcome == "promoted"
    assert result.reason == (
        "better than the champion in mAP50 by +0.0500 [+0.0100, +0.0900] on 100 test images, "
        "each bound at 95%; chance of such a gain by luck alone: 2.1%"
    )
    assert result.rules == [
        RuleResult(
            rule="gain",
            wanted="95% lower bound above 0",
            seen="+0.0500 [+0.0100, +0.0900]",
            met=True,
        ),
        RuleResult(
            rule="luck",
            wanted="at most 5% of luck",
            seen="2.1%: how often two equal models would show such a gain",
            met=True,
        ),
    ]


def test_an_unsure_gain_is_inconclusive() -> None:
    """It may be luck: the reason says how many images would show it."""
    result = judged(replace(GAIN, low=-0.05, p_value=0.17))
    assert result.outcome == "inconclusive"
    assert result.reason == (
        "better than the champion in mAP50 by +0.0500 [-0.0500, +0.0900], but that may be luck: "
        "to be 95% sure takes about 400 test images, there are 100; chance of such a gain by luck "
        "alone: 17.0%"
    )
    assert [rule.met for rule in result.rules] == [False, False]


def test_a_gain_that_equal_models_often_show_is_inconclusive() -> None:
    """The bound alone promotes nothing; how many more images it takes is not known from it."""
    result = judged(replace(GAIN, p_value=0.056))
    assert result.outcome == "inconclusive"
    assert result.reason == (
        "better than the champion in mAP50 by +0.0500 [+0.0100, +0.0900], but that may be luck: "
        "to be 95% sure takes somewhat more test images, there are 100; chance of such a gain by "
        "luck alone: 5.6%"
    )
    assert [rule.met for rule in result.rules] == [True, False]


def test_little_luck_does_not_make_up_for_the_bound() -> None:
    """A least gain is asked of the bound."""
    assert judged(replace(GAIN, low=0.01), min_gain=0.02).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("confidence", "luck", "met"),
    [(0.95, 0.05, True), (0.95, 0.0501, False), (0.9, 0.1, True), (0.9, 0.101, False)],
)
def test_the_luck_allowed_is_what_the_confidence_leaves(
    confidence: float, luck: float, met: bool
) -> None:
    """Exactly so much is allowed still."""
    result = judged(replace(GAIN, p_value=luck), confidence=confidence)
    assert result.outcome == ("promoted" if met else "inconclusive")


def test_a_chance_is_never_told_as_none() -> None:
    """One digit after the point, two figures below one percent."""
    told = {0.4312: "43.1%", 0.021: "2.1%", 1.0: "100.0%", 1 / 2001: "0.05%"}
    assert {luck: chance(luck) for luck in told} == told


def test_much_luck_is_told_of_a_gain_that_breaks_another_rule() -> None:
    """It is a fault of its own where the bound is met."""
    result = judged(replace(GAIN, p_value=0.056), max_size_mb=1.0)
    assert result.outcome == "kept"
    assert result.reason == (
        "size 6.2 MB, wanted at most 1 MB; "
        "chance of such a gain by luck alone 5.6%, wanted at most 5%"
    )


@pytest.mark.parametrize(
    ("value", "low", "outcome"),
    [
        (0.05, 0.03, "promoted"),
        (0.05, 0.02, "inconclusive"),
        (0.021, 0.01, "inconclusive"),
        (0.02, 0.01, "kept"),
        (0.01, 0.005, "kept"),
        (-0.01, -0.05, "kept"),
        (0.0, 0.0, "kept"),
    ],
)
def test_the_gain_is_measured_against_the_least_gain(
    value: float, low: float, outcome: str
) -> None:
    """The bound must be above it to promote, the value must be above it to be undecided."""
    gain = replace(GAIN, value=value, low=low)
    assert judged(gain, min_gain=0.02).outcome == outcome


def test_the_same_model_is_kept() -> None:
    """Without any difference nothing is promoted, for any number of images and any confidence."""
    for images in (1, 5, 40):
        found = draw(1, Drawn(images=images))
        same = measure_gain(found, found, "mAP50", resamples=50, seed=0, confidence=0.5)
        assert judged(same).outcome == "kept"


def test_a_bound_above_its_value_counts_as_no_gain() -> None:
    """Skewed resamples can say so; what was seen must be a gain as well."""
    assert judged(replace(GAIN, value=-0.01, low=0.001)).outcome == "kept"


def test_a_champion_that_cannot_be_compared_is_kept() -> None:
    """Nothing is promoted over it unseen."""
    result = judged(None)
    assert result.outcome == "kept"
    assert result.reason == "gain in mAP50 not compared, wanted 95% lower bound above 0"


@pytest.mark.parametrize(
    ("rules", "rule", "wanted", "seen", "met"),
    [
        ({"min_value": 0.4}, "value", "above 0.4", "0.5000", True),
        ({"min_value": 0.5}, "value", "above 0.5", "0.5000", False),
        ({"max_latency_ms": 12.5}, "latency", "at most 12.5 ms", "12.5 ms on some CPU", True),
        ({"max_latency_ms": 12.4}, "latency", "at most 12.4 ms", "12.5 ms on some CPU", False),
        ({"max_size_mb": 6.2}, "size", "at most 6.2 MB", "6.2 MB", True),
        ({"max_size_mb": 6.1}, "size", "at most 6.1 MB", "6.2 MB", False),
    ],
)
@pytest.mark.parametrize("against", [True, False])
def test_a_limit_is_kept_with_and_without_a_champion(
    *, rules: dict[str, float], rule: str, wanted: str, seen: str, met: bool, against: bool
) -> None:
    """What is over it is not promoted however much better, and the reason says both figures."""
    result = judged(**rules) if against else first(evaluated(), **rules)
    assert RuleResult(rule=rule, wanted=wanted, seen=seen, met=met) in result.rules
    assert result.outcome == ("promoted" if met else "kept")
    if not met:
        assert f"{seen}, wanted {wanted}" in result.reason


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ({"max_latency_ms": 100.0}, {"latency_ms": {}}),
        ({"max_latency_ms": 100.0}, {"latency_ms": {"median": float("nan")}}),
        ({"max_size_mb": 100.0}, {"weights_bytes": 0}),
        ({"min_value": 0.1}, {"metrics": {}}),
        ({"max_class_loss": 0.5}, {"per_class": {"cat": {"AP50": 0.6}}}),
    ],
)
def test_a_limit_whose_figure_is_missing_is_not_met(
    rules: dict[str, float], missing: dict[str, Any]
) -> None:
    """What was not measured is not promoted."""
    result = judged(challenger=evaluated(**missing), **rules)
    assert result.outcome == "kept"
    assert "not measured" in result.reason


def test_no_class_may_lose_more_than_is_allowed() -> None:
    """By AP50 as it was found; a loss of just as much is allowed, the worst class is named."""
    challenger = evaluated(0.5, per_class={"bird": {"AP50": 0.43}, "cat": {"AP50": 0.9}})
    gain, _, classes = judged(challenger=challenger, max_class_loss=0.02).rules
    assert gain.met
    assert classes.rule == "classes"
    assert classes.wanted == "no class loses more than 0.02 AP50"
    assert classes.seen == "bird -0.0200"
    assert classes.met
    result = judged(challenger=challenger, max_class_loss=0.01)
    assert result.outcome == "kept"
    assert result.reason == "classes bird -0.0200, wanted no class loses more than 0.01 AP50"


def test_a_champion_without_figures_by_class_leaves_the_rule_unmet() -> None:
    """A loss that nobody can see is not ruled out."""
    rules = replace(RULES, max_class_loss=0.1)
    bare = evaluated(0.45, per_class={})
    assert judge(rules, evaluated(), bare, GAIN, "mAP50", "maximize").outcome == "kept"


def test_a_broken_rule_outweighs_an_unsure_gain() -> None:
    """More images would not help: it is kept, not inconclusive, and every fault is told."""
    result = judged(replace(GAIN, low=-0.05, p_value=0.17), max_size_mb=1.0)
    assert result.outcome == "kept"
    assert result.reason == (
        "size 6.2 MB, wanted at most 1 MB; "
        "gain in mAP50 +0.0500 [-0.0500, +0.0900], wanted 95% lower bound above 0"
    )


def test_a_first_champion_needs_absolute_rules_only() -> None:
    """No gain and no class is compared; finding something is enough where no value is asked."""
    result = first(evaluated(0.5), max_class_loss=0.01)
    assert result.outcome == "promoted"
    assert result.reason == "it is the model's first champion: mAP50 0.5000 on 100 test images"
    assert [rule.rule for rule in result.rules] == ["value"]


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_what_finds_nothing_is_never_a_first_champion(value: float) -> None:
    """Neither is what has no figure."""
    result = first(evaluated(value))
    assert result.outcome == "kept"
    assert result.reason.endswith("wanted above 0")


def test_a_minimized_objective_turns_the_value_rule() -> None:
    """Below the limit; without one it only has to have a figure."""
    assert first(evaluated(0.2), "minimize", min_value=0.3).outcome == "promoted"
    assert first(evaluated(0.3), "minimize", min_value=0.3).outcome == "kept"
    assert first(evaluated(0.0), "minimize").outcome == "promoted"
    assert first(evaluated(float("nan")), "minimize").outcome == "kept"


def test_the_images_needed_grow_with_the_square_of_what_is_missing() -> None:
    """Half as wide takes four times as many; two figures; never fewer than there are."""
    assert images_needed(replace(GAIN, low=-0.05), 0.0) == 400
    assert images_needed(replace(GAIN, low=0.0), 0.0) == 101
    assert images_needed(replace(GAIN, low=-0.0223), 0.0) == 210
    assert images_needed(replace(GAIN, low=-0.05), 0.049) is None
    assert images_needed(replace(GAIN, value=0.0), 0.0) is None


def test_too_few_images_to_be_sure_at_all_are_told() -> None:
    """Four images prove nothing at 95%, whatever they show."""
    drawn = Drawn(images=4, objects=6)
    one, other = draw(1, drawn), draw(1, replace(drawn, found=0.1), model=1)
    gain = measure_gain(one, other, "mAP50", resamples=50, seed=0, confidence=0.95)
    challenger = EvaluationRecord(
        weights_sha256="", test_fingerprint="", metrics=figures(one).metrics, images=4
    )
    result = judge(RULES, challenger, evaluated(0.1), gain, "mAP50", "maximize")
    assert result.outcome == "inconclusive"
    assert "takes at least 5 test images, there are 4" in result.reason
