"""What is stored of a decision is read and written back without loss."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.evaluation.record import EvaluationRecord
from hpo.evaluation.significance import Gain
from hpo.promotion.evidence import (
    ABOUT_A_CHALLENGER,
    ChampionResult,
    ClassResult,
    Cost,
    Evidence,
    FinalistResult,
    RuleResult,
    SeedResult,
)

EVALUATION = {
    "weights_sha256": "c" * 64, "test_fingerprint": "d" * 64, "images": 40,
    "metrics": {"mAP50": 0.7131, "mAP50-95": None, "precision": 0.76, "recall": 0.67},
    "per_class": {"ship": {"AP50": 0.63, "AP50-95": 0.35, "precision": 0.8, "recall": 0.7}},
    "latency_ms": {"median": 23.41, "p95": 30.9}, "device": "cpu: AMD EPYC 7B13 (1 thread)",
    "parameters": 3011823, "gflops": 8.19, "weights_bytes": 6250000, "settings": {"imgsz": 320},
    "detections_sha256": "e" * 64,
}  # fmt: skip
# As hpo.promotion holds it
STORED: dict[str, Any] = {
    "reason": "better than the champion in mAP50 by +0.0613 [+0.0273, +0.0963] on 40 test images",
    "decision": "5f0c8f5e-5b9f-5a52-8f1c-0f6a6c1f5e3d",
    "metric": "mAP50", "direction": "maximize", "value": 0.7103, "test_value": 0.7131,
    "best_epoch": 18, "seed": 1, "params": {"lr0": 0.0081, "kind": "a", "mosaic": True},
    "train": {"imgsz": 320, "batch": 8}, "weights_name": "weights/best.pt",
    "weights_sha256": "c" * 64, "spec_sha256": "b" * 64, "dataset_fingerprint": None,
    "test_fingerprint": "d" * 64, "trainer": "yolo", "code_version": "ultralytics 8.4.190",
    "simulated": False, "trials": {"complete": 8, "pruned": 3, "failed": 1, "typed": 0},
    "evaluation": EVALUATION,
    "finalists": [
        {
            "trial": 7, "value": 0.7103, "spread": 0.017,
            "seeds": [
                {"seed": 0, "value": 0.6983, "final": 14, "weights_sha256": "f" * 64},
                {"seed": 1, "value": 0.7223, "final": 15, "weights_sha256": "c" * 64},
            ],
            "evaluation": EVALUATION, "interval": [0.6611, 0.7621], "out": "",
        },
        {
            "trial": 5, "value": None, "spread": None, "seeds": [], "evaluation": None,
            "interval": None, "out": "no final of it is complete",
        },
    ],
    "cost": {"trials_s": {"cuda": 5120.0, "cpu": 340.0}, "finals_s": {"cuda": 1500.0}},
    "rules": [
        {"rule": "gain", "wanted": "95% lower bound above 0.01",
         "seen": "+0.0613 [+0.0273, +0.0963]", "met": True},
        {"rule": "luck", "wanted": "at most 5% of luck", "seen": "2.1%: how often", "met": True},
    ],
    "difference": {
        "value": 0.0613, "low": 0.0273, "high": 0.0963, "better": 0.982, "resamples": 2000,
        "seed": 0, "confidence": 0.95, "method": "expanded percentile", "images": 40,
        "luck": 0.021,
    },
    "comparable": True,
    "champion": {
        "version": 3, "trial": 4, "study": "harbour-old", "evaluation": EVALUATION,
        "evaluated": True, "value": 0.6518,
    },
    "classes": [{"name": "ship", "challenger": 0.63, "champion": None, "difference": None}],
    "run_id": "0123456789abcdef0123456789abcdef",
}  # fmt: skip


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in STORED.items() if key not in keys}


DOCUMENTS = {
    "promoted": STORED,
    "first champion": STORED | {"difference": None, "champion": None},
    "never evaluated": STORED | {"evaluation": None, "finalists": [], "classes": [], "rules": [],
                                 "test_value": None, "comparable": False},
    "past the gate": STORED | {"override": True, "why": "it is needed", "actor": "ann@lab"},
    "nothing": {"reason": "no trial is complete", "trials": {"complete": 0, "failed": 2}},
    "too early": {"reason": "the study is not finished"},
    "rolled back": {"metric": "mAP50", "value": 0.5, "dataset_fingerprint": None,
                    "reason": "in place of version 2", "decision": None, "moved_by_hand": ""},
    "of an earlier version": without("finalists", "cost", "difference", "evaluation", "decision")
    | {"champion_value": None, "champion_evaluated": False},
    "with what this version does not know": STORED | {
        "later": [1], "difference": {**STORED["difference"], "bayes": 0.4}},
}  # fmt: skip


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_evidence_that_is_stored_is_written_back_as_it_was(kind: str) -> None:
    """Each key and nothing else, also those that say null and those of other versions."""
    document = copy.deepcopy(DOCUMENTS[kind])
    assert Evidence.from_json(document).to_json() == DOCUMENTS[kind]
    assert document == DOCUMENTS[kind]


def test_evidence_has_its_figures_as_attributes() -> None:
    """Those of the stored document, whatever their keys are called there."""
    found = Evidence.from_json(STORED)
    assert found.gain is not None
    assert (found.gain.probability_better, found.gain.p_value) == (0.982, 0.021)
    best, other = found.finalists
    assert best.test_value("mAP50") == 0.7131
    assert (best.interval, other.interval) == ((0.6611, 0.7621), None)
    assert other.test_value("mAP50") is None
    assert best.seed_values == {0: 0.6983, 1: 0.7223}
    assert found.finalist(7) is best
    assert found.finalist(6) is None
    assert found.evaluation == found.evaluated(7) == EvaluationRecord.from_dict(EVALUATION)
    assert found.champion is not None
    assert found.champion.version == 3
    assert found.cost == Cost(trials_s={"cuda": 5120.0, "cpu": 340.0}, finals_s={"cuda": 1500.0})


def test_evidence_tolerates_what_is_missing() -> None:
    """An empty document, and a gain, an evaluation and a champion that say little."""
    assert Evidence.from_json({}) == Evidence()
    found = Evidence.from_json({
        "difference": {"value": 0.1}, "evaluation": {"metrics": {"mAP50": 0.5}}, "champion": {},
        "finalists": None,
    })  # fmt: skip
    assert found.gain is not None
    assert (found.gain.value, math.isnan(found.gain.p_value)) == (0.1, True)
    assert found.evaluation is not None
    assert found.evaluation.metrics == {"mAP50": 0.5}
    assert found.champion == ChampionResult()
    assert found.finalists == ()


def test_evidence_of_a_challenger_says_null_where_there_is_nothing() -> None:
    """Pipelines find each key; NaN, which JSON has not, is null too."""
    written = Evidence(reason="", value=math.nan, stated=ABOUT_A_CHALLENGER).to_json()
    assert set(written) == ABOUT_A_CHALLENGER
    assert written["value"] is None
    json.dumps(written, allow_nan=False)


numbers = st.floats(allow_nan=False, allow_infinity=False)
some = st.none() | numbers
words = st.text(max_size=8)
shares = st.dictionaries(words, numbers, max_size=2)
counts = st.integers(0, 10**6)
evaluations = st.builds(
    EvaluationRecord, weights_sha256=words, test_fingerprint=words, metrics=shares, images=counts,
    per_class=st.dictionaries(words, shares, max_size=2),
    latency_ms=shares, device=words, parameters=st.none() | counts, gflops=some,
    weights_bytes=counts, settings=shares, detections_sha256=st.none() | words,
)  # fmt: skip
gains = st.builds(
    Gain, value=numbers, low=numbers, high=numbers, probability_better=numbers, resamples=counts,
    seed=counts, confidence=numbers, method=words, images=counts, p_value=numbers,
)  # fmt: skip
finalists = st.builds(
    FinalistResult, trial=counts, value=some, spread=some,
    seeds=st.lists(
        st.builds(SeedResult, seed=counts, value=numbers, final=st.none() | counts,
                  weights_sha256=words), max_size=2,
    ).map(tuple),
    evaluation=st.none() | evaluations, interval=st.none() | st.tuples(numbers, numbers),
    out=words,
)  # fmt: skip
every_evidence = st.builds(
    Evidence, reason=words, decision=st.none() | words, metric=st.none() | words, value=some,
    test_value=some, best_epoch=st.none() | counts, params=st.none() | shares,
    simulated=st.booleans(), trials=st.none() | st.dictionaries(words, counts, max_size=2),
    evaluation=st.none() | evaluations, finalists=st.lists(finalists, max_size=2).map(tuple),
    cost=st.none() | st.builds(Cost, trials_s=shares, finals_s=shares),
    rules=st.lists(st.builds(RuleResult, rule=words, wanted=words, seen=words, met=st.booleans()),
                   max_size=2).map(tuple),
    gain=st.none() | gains, comparable=st.booleans(),
    champion=st.none() | st.builds(
        ChampionResult, version=counts, trial=st.none() | counts, study=st.none() | words,
        evaluation=st.none() | evaluations, evaluated=st.booleans(), value=some,
    ),
    classes=st.lists(st.builds(ClassResult, name=words, challenger=some, champion=some,
                               difference=some), max_size=2).map(tuple),
    override=st.booleans(), why=st.none() | words, run_id=st.none() | words,
    stated=st.sampled_from([frozenset(), ABOUT_A_CHALLENGER]),
)  # fmt: skip


@given(every_evidence)
def test_evidence_is_the_same_after_json(evidence: Evidence) -> None:
    """Whatever it holds, through JSON as text and back."""
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json()))) == evidence
