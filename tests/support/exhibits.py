"""Made-up decisions with everything that can be shown of them, pictures too."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from support.studies import simulated_spec

from hpo.evaluation.detections import OVERLAPS, Detections
from hpo.promotion.decision import Decision, Outcome
from hpo.promotion.evidence import Evidence
from hpo.promotion.report.context import ReportContext, TrialFigures
from hpo.promotion.report.files import documents
from hpo.studies.spec import Promotion
from hpo.studies.store import Study
from workers.yolo.trainer import LICENCE, LICENCE_NOTE, WEIGHTS_LOADER

NAMES = ("ship", "truck", "<script>alert(1)</script>", "traffic light", "a|b `c` & d")
SIDE_PX = 320
BASELINE = {"lr0": 0.01, "momentum": 0.937, "mosaic": 1.0}


def detections(
    quality: float, *, images: int = 40, names: tuple[str, ...] = NAMES, seed: int = 1
) -> Detections:
    """What a model of that quality finds; the true boxes depend on nothing but the images."""
    truth, luck = np.random.default_rng(7), np.random.default_rng(seed)
    true_rows, rows = [], []
    for image in range(images):
        for _ in range(truth.integers(1, 5)):
            corner, size = truth.uniform(0, 200, 2), truth.uniform(40, 110, 2)
            box, kind = np.array([*corner, *(corner + size)]), int(truth.integers(len(names)))
            true_rows.append((image, box, kind))
            if luck.random() < quality:
                other = int(luck.integers(len(names)))
                shown = kind if luck.random() < 0.4 + quality / 2 else other
                rows.append((image, box + luck.normal(0, 6, 4), luck.uniform(0.2, 0.98), shown))
        if luck.random() > quality:
            corner = luck.uniform(0, 220, 2)
            box = np.array([*corner, *(corner + luck.uniform(30, 90, 2))])
            rows.append((image, box, luck.uniform(0.1, 0.7), int(luck.integers(len(names)))))
    return Detections(
        images=tuple(f"images/test/{image:04d}.jpg" for image in range(images)),
        names=names,
        sizes=np.full((images, 2), SIDE_PX, np.int32),
        image=np.array([row[0] for row in rows], np.int32),
        box=np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        confidence=np.array([row[2] for row in rows], np.float32),
        kind=np.array([row[3] for row in rows], np.int32),
        correct=np.zeros((len(rows), len(OVERLAPS)), bool),
        true_image=np.array([row[0] for row in true_rows], np.int32),
        true_box=np.array([row[1] for row in true_rows], np.float32).reshape(-1, 4),
        true_kind=np.array([row[2] for row in true_rows], np.int32),
    )


@cache
def picture_truth() -> Detections:
    return detections(0.0)


def picture(name: str) -> Image.Image:
    """The test image of that name: its true boxes as filled shapes on a sky."""
    found = picture_truth()
    at = found.images.index(name)
    ramp = np.linspace(70, 200, SIDE_PX, dtype=np.uint8)
    noise = np.random.default_rng(at).integers(0, 40, (SIDE_PX, SIDE_PX), dtype=np.uint8)
    grey = ramp[:, None] + noise
    image = Image.fromarray(np.dstack([grey // 2, grey, grey]).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    colours = ("#c94f4f", "#4fa34f", "#4f5fc9", "#c9b44f", "#8a4fc9")
    for truth in np.flatnonzero(found.true_image == at).tolist():
        x1, y1, x2, y2 = (float(edge) for edge in found.true_box[truth])
        kind = int(found.true_kind[truth])
        shape = draw.ellipse if kind % 2 else draw.rectangle
        shape((x1 + 3, y1 + 3, x2 - 3, y2 - 3), fill=colours[kind % len(colours)])
    return image


def evaluation(value: float, *, names: tuple[str, ...] = NAMES, images: int = 40) -> dict[str, Any]:
    """An `EvaluationRecord` as it is stored."""
    spread = np.linspace(-0.08, 0.08, len(names))
    per_class = {
        name: {"AP50": value + shift, "AP50-95": value / 2, "precision": 0.8, "recall": 0.7}
        for name, shift in zip(names, spread, strict=True)
    }
    return {
        "weights_sha256": "c" * 64, "test_fingerprint": "d" * 64, "images": images,
        "metrics": {"mAP50": value, "mAP50-95": value * 0.6, "precision": value + 0.05,
                    "recall": value - 0.04},
        "per_class": per_class, "latency_ms": {"median": 23.41, "p95": 30.9},
        "device": "cpu: AMD EPYC 7B13 (1 thread)", "parameters": 3_011_823, "gflops": 8.19,
        "weights_bytes": 6_250_000, "settings": {"imgsz": 320}, "detections_sha256": "e" * 64,
    }  # fmt: skip


def finalist(trial: int, value: float, test: float, **changes: Any) -> dict[str, Any]:
    """A finalist of two seeds, as evidence."""
    seeds = [
        {"seed": seed, "value": value + (0.012 if seed else -0.012), "final": 2 * trial + seed,
         "run_id": None, "weights_sha256": "f" * 64}
        for seed in (0, 1)
    ]  # fmt: skip
    return {
        "trial": trial, "value": value, "spread": 0.017, "seeds": seeds,
        "evaluation": evaluation(test), "interval": [test - 0.052, test + 0.049], "out": "",
    } | changes  # fmt: skip


def study(**promotion: Any) -> Study:
    """A stored study's record, of a database that is not there."""
    rules = Promotion(
        model="ships",
        alias="champion",
        **{
            "finalists": 3,
            "seeds": 2,
            "min_gain": 0.01,
            "max_class_loss": 0.1,
            "max_latency_ms": 30.0,
            "max_size_mb": 10.0,
        }
        | promotion,
    )
    spec = replace(
        simulated_spec(study="harbour", baselines=(BASELINE,)), trainer="yolo",
        model="yolov8n.yaml", data="/data/harbour/data.yaml", promotion=rules,
    )  # fmt: skip
    return Study(
        study_id=3,
        uid=uuid.UUID(int=5),
        name="harbour",
        spec=spec,
        spec_sha256=spec.sha256(),
        fingerprint="a" * 64,
        code_version="ultralytics 8.4.190",
        trials=12,
        state="open",
        test_fingerprint="d" * 64,
    )


def trials() -> list[TrialFigures]:
    """Twelve ended trials, of which 7 is the best."""
    found = []
    for number in range(12):
        state = "PRUNED" if number in {3, 9, 11} else "FAIL" if number == 10 else "COMPLETE"
        value = None if state == "FAIL" else 0.5 + 0.03 * (number if number < 8 else 3)
        metrics: dict[str, float | None] = (
            {} if value is None else {"mAP50": value, "mAP50-95": value / 2, "precision": 0.8}
        )
        params = {"lr0": 0.001 * (number + 1), "momentum": 0.9 + number / 200, "mosaic": 0.5}
        found.append(
            TrialFigures(
                number=number, state=state, value=value, best_epoch=18, metrics=metrics,
                params=params, train_s=120.0 + number,
            )
        )  # fmt: skip
    return found


def curve(epochs: int = 20) -> list[dict[str, Any]]:
    """A training that rises, with one figure that did not exist."""
    points = []
    for epoch in range(1, epochs + 1):
        rise = 1 - float(np.exp(-epoch / 6))
        points.append({"epoch": epoch, "metrics": {
            "mAP50": 0.72 * rise, "mAP50-95": 0.45 * rise,
            "precision": None if epoch == 3 else 0.8 * rise, "recall": 0.7 * rise,
            "train/box_loss": 2.4 - 1.4 * rise, "val/box_loss": 2.5 - 1.2 * rise,
            "train/cls_loss": 3 - 2.2 * rise, "val/cls_loss": 3.1 - 2 * rise,
            "lr": 0.01, "seconds": 2.0,
        }})  # fmt: skip
    return points


def evidence(outcome: str) -> dict[str, Any]:
    """The evidence of a decision that was weighed against a champion, as it is stored."""
    good = outcome == "promoted"
    value, gain = (0.7131, 0.0613) if good else (0.6712, 0.0194)
    low, high = gain - 0.034, gain + 0.035
    champion = value - gain
    lost = -0.12 if outcome == "kept" else -0.03
    slow = "its latency of 31.2 ms breaks the limit of 30 ms"
    return {
        "reason": f"mAP50 {value:.4f} against {champion:.4f} on 40 test images",
        "metric": "mAP50", "direction": "maximize", "value": 0.7103, "best_epoch": 18,
        "seed": 1,
        "params": {"lr0": 0.0081, "momentum": 0.935, "mosaic": 0.5},
        "weights_name": "weights/best.pt", "weights_sha256": "c" * 64,
        "spec_sha256": "b" * 64, "dataset_fingerprint": "a" * 64,
        "test_fingerprint": "d" * 64, "trainer": "yolo", "code_version": "ultralytics 8.4.190",
        "simulated": False, "trials": {"complete": 8, "pruned": 3, "failed": 1},
        "run_id": "0123456789abcdef0123456789abcdef",
        "finalists": [
            finalist(7, 0.7103, value),
            finalist(6, 0.6811, value - 0.011),
            finalist(5, 0.6502, value + 0.004, out=slow),
        ],
        "test_value": value,
        "champion": {"version": 3, "trial": 4, "study": "harbour-old", "value": champion,
                     "evaluated": True, "evaluation": evaluation(champion)},
        "difference": {"value": gain, "low": low, "high": high, "better": 0.982 if good else 0.81,
                       "resamples": 2000, "seed": 0, "confidence": 0.95,
                       "method": "expanded percentile", "images": 40,
                       "luck": 0.021 if good else 0.17},
        "classes": [
            {"name": name, "challenger": champion + change, "champion": champion,
             "difference": change}
            for name, change in zip(NAMES, (0.08, 0.021, lost, 0.055, -0.004), strict=True)
        ],
        "rules": [
            {"rule": "gain", "wanted": "95% lower bound above +0.01",
             "seen": f"{gain:+.4f} [{low:+.4f}, {high:+.4f}]", "met": good},
            {"rule": "luck", "wanted": "at most 5% of luck", "met": good,
             "seen": f"{'2.1' if good else '17.0'}%: how often two equal models would show such "
                     "a gain"},
            {"rule": "no class may lose", "wanted": "at most 0.1 of AP50",
             "seen": f"{lost:+.4f} (<script>)", "met": outcome != "kept"},
            {"rule": "latency", "wanted": "at most 30 ms", "seen": "23.4 ms", "met": True},
            {"rule": "size", "wanted": "at most 10 MB", "seen": "6.25 MB", "met": True},
        ],
        "comparable": True,
        "cost": {"trials_s": {"cuda": 5120.0, "cpu": 340.0}, "finals_s": {"cuda": 1500.0}},
    }  # fmt: skip


def exhibit(outcome: str = "promoted", **changes: Any) -> ReportContext:
    """A decision against champion 3; `changes` are the decision's."""
    known = Evidence.from_json(evidence(outcome))
    decision = Decision(
        outcome=Outcome(outcome), study="harbour", model="ships", alias="champion",
        reason=known.reason, trial=7, version=4 if outcome == "promoted" else 3,
        previous_version=3, evidence=known,
    )  # fmt: skip
    return ReportContext(
        study=study(), decision=replace(decision, **changes), trials=trials(), curve=curve(),
        challenger=detections(0.85, seed=2), champion=detections(0.72, seed=3),
        decision_id="5f0c8f5e-5b9f-5a52-8f1c-0f6a6c1f5e3d", pictures=picture,
        weights_loader=WEIGHTS_LOADER, licence=LICENCE, licence_note=LICENCE_NOTE,
    )  # fmt: skip


def first_champion() -> ReportContext:
    """A promotion with no champion before it."""
    found = exhibit("promoted")
    known = replace(
        found.evidence, champion=None, gain=None, rules=found.evidence.rules[2:],
        classes=tuple(replace(one, champion=None, difference=None)
                      for one in found.evidence.classes),
        reason="it is the first champion of ships",
    )  # fmt: skip
    decision = replace(
        found.decision, previous_version=None, version=1, evidence=known, reason=known.reason
    )
    return replace(found, decision=decision, champion=None)


def simulated() -> ReportContext:
    """A promotion of the trainer that trains nothing."""
    found = exhibit("promoted")
    known = replace(found.evidence, simulated=True, trainer="simulated")
    spec = replace(found.study.spec, trainer="simulated", model="simulated", data=None)
    own = replace(found.study, spec=spec, fingerprint=None, code_version="simulated 1")
    return replace(
        found, study=own, decision=replace(found.decision, evidence=known), pictures=None,
        weights_loader="", licence="", licence_note="",
    )  # fmt: skip


def nothing() -> ReportContext:
    """A finished study without a candidate."""
    reason = "no trial is complete with a value that a worker told: 12 failed"
    decision = Decision(
        outcome=Outcome.NONE, study="harbour", model="ships", alias="champion", reason=reason,
        evidence=Evidence(reason=reason),
    )  # fmt: skip
    return ReportContext(study=study(), decision=decision)


def old() -> ReportContext:
    """A promotion that was recorded before there were finals."""
    known = Evidence.from_json({
        "reason": "it is the model's first champion", "comparable": True, "champion_value": None,
        "champion_evaluated": False, "value": 0.6, "metric": "mAP50", "direction": "maximize",
        "best_epoch": 2, "params": {"x": 0.5}, "weights_name": "weights/weights.json",
        "weights_sha256": "c" * 64, "spec_sha256": "b" * 64, "dataset_fingerprint": None,
        "trainer": "simulated", "code_version": "simulated 1", "simulated": True, "trials": {},
    })  # fmt: skip
    decision = Decision(
        outcome=Outcome.PROMOTED, study="harbour", model="ships", alias="champion",
        reason=known.reason, trial=1, version=1, evidence=known,
    )  # fmt: skip
    return ReportContext(study=study(), decision=decision, trials=trials())


def overridden() -> ReportContext:
    return exhibit("promoted", override=True, why="it is «needed»", actor="ann@lab")


def rolled_back() -> ReportContext:
    return exhibit("rolled_back", version=2, previous_version=4, trial=None)


def unchampioned() -> ReportContext:
    return exhibit("kept", version=None, previous_version=None)


KINDS = {
    "promoted": exhibit,
    "kept": lambda: exhibit("kept"),
    "inconclusive": lambda: exhibit("inconclusive"),
    "override": overridden,
    "first champion": first_champion,
    "kept without a champion": unchampioned,
    "simulated": simulated,
    "nothing": nothing,
    "rolled back": rolled_back,
    "of an earlier version": old,
}


@cache
def written(kind: str) -> dict[str, str]:
    """The documents of a kind; drawing takes its time."""
    return documents(KINDS[kind]())
