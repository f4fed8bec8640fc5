"""Evaluate simulated weights: figures, detections and latency from the quality in the file.

Tests may write weights of their own: `{"quality": 0.6}`, with `latency_ms` where it matters.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from hpo.datasets.data_yaml import SPLITS
from hpo.errors import DatasetError, WeightsError
from hpo.evaluation.average_precision import figures
from hpo.trainer import Evaluation
from workers.simulated.detections import make_detections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hpo.trainer import Job

    EpochMetrics: TypeAlias = Callable[[Mapping[str, Any], int, int], Mapping[str, float]]

DETECTIONS = "detections.npz"
IMGSZ = 640
PARAMETERS, GFLOPS = 3_000_000, 8.1  # about those of YOLOv8n
LATENCY_MS = (4.0, 6.0)  # the median is drawn from here, by the weights' content
P95 = 1.3  # times the median


@dataclass(frozen=True)
class _Worth:
    """What weights are worth.

    Attributes:
        quality: about the mAP50 that they have, 0 to 1: as written in the file, else as it was
            after their epoch.
        chance: what else decides what they find: the digest of the file.
        latency_ms: as written in the file, else made up.
    """

    quality: float
    chance: str
    latency_ms: float

    @classmethod
    def of(cls, content: bytes, metrics: EpochMetrics) -> _Worth:
        saved, chance = json.loads(content), sha256(content).hexdigest()
        quality = saved.get("quality")
        if quality is None:
            quality = metrics(saved["params"], saved["seed"], saved["epoch"])["mAP50"]
        latency_ms = saved.get("latency_ms")
        if latency_ms is None:
            latency_ms = random.Random(chance).uniform(*LATENCY_MS)  # noqa: S311 - not a secret
        if not (0 <= quality <= 1 and 0 < latency_ms < math.inf):
            raise ValueError(f"quality {quality}, latency_ms {latency_ms}")
        return cls(float(quality), chance, round(float(latency_ms), 3))


def evaluate(weights: Path, job: Job, split: str, metrics: EpochMetrics) -> Evaluation:
    """Make detections up and compute their figures.

    Args:
        weights: what the simulated trainer wrote, or a test.
        job: its `run_dir` takes the detections.
        split: `train`, `val` or `test`.
        metrics: parameters, seed and epoch -> the figures of that epoch.

    Raises:
        DatasetError: there is no such split.
        WeightsError: the file is no simulated weights.
    """
    if split not in SPLITS:
        fault = f"{split}: no such split; there are {', '.join(SPLITS)}"
        raise DatasetError("simulated images", [fault])
    try:
        content = weights.read_bytes()
        worth = _Worth.of(content, metrics)
    except (OSError, AttributeError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{weights}: no weights of a simulated training ({error})") from None
    detections = make_detections(worth.quality, worth.chance, split)
    job.run_dir.mkdir(parents=True, exist_ok=True)
    path = job.run_dir / DETECTIONS
    detections.save(path)
    found = figures(detections)
    return Evaluation(
        metrics={**found.metrics, "loss": 1 - found.metrics["mAP50"]},
        images=len(detections.images),
        per_class=found.per_class,
        detections=path,
        latency_ms={"median": worth.latency_ms, "p95": round(P95 * worth.latency_ms, 3)},
        device=f"SIMULATED {job.device}",
        parameters=PARAMETERS,
        gflops=GFLOPS,
        weights_bytes=len(content),
        settings={"imgsz": IMGSZ},
    )
