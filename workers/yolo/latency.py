"""Measure how long a detector takes for one image, and how large it is.

Ultralytics is imported at the top: import this module only after `environment.prepare()`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.utils.patches import imread
from ultralytics.utils.torch_utils import get_cpu_info, get_flops, get_num_params

from workers.yolo.arguments import PREDICT_PARAMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

IMAGES = 50  # measured; fewer where the time is spent before
LEAST_IMAGES = 5
WARM_UP_IMAGES = 10
LEAST_WARM_UP = 2
MEASURE_S = 2.5
WARM_UP_S = 0.5


@dataclass(frozen=True)
class Cost:
    """What a detector costs to run; its figures are those of the fused model, which is served.

    Attributes:
        latency_ms: `median` and `p95` of one image, decoded before and boxes after.
        device: what it ran on, by name.
        parameters: of the fused model.
        gflops: for one square image; None where they cannot be counted.
    """

    latency_ms: Mapping[str, float]
    device: str
    parameters: int
    gflops: float | None


def measure(
    weights: Path, images: Sequence[Path], device: str, args: Mapping[str, Any], folder: Path
) -> Cost:
    """Run the weights on one image at a time, for about three seconds.

    Args:
        weights: of a detector.
        images: files, taken in turns.
        device: as Ultralytics names it.
        args: `imgsz` and `max_det`.
        folder: for what Ultralytics would write; it writes nothing.
    """
    overrides = {
        **PREDICT_PARAMS,
        **args,
        "model": str(weights),
        "device": device,
        "save_dir": str(folder),
        "rect": True,
        "save": False,
        "verbose": False,
        "task": "detect",
        "mode": "predict",
    }
    predictor = DetectionPredictor(overrides=overrides)
    predictor.setup_model(str(weights), verbose=False)
    files = cycle(images)
    _run(predictor, files, WARM_UP_IMAGES, LEAST_WARM_UP, WARM_UP_S)
    taken = _run(predictor, files, IMAGES, LEAST_IMAGES, MEASURE_S)
    median, p95 = np.percentile(taken, (50, 95))
    model = predictor.model.model
    return Cost(
        latency_ms={"median": round(float(median), 3), "p95": round(float(p95), 3)},
        device=_name(predictor.device),
        parameters=get_num_params(model),
        gflops=get_flops(model, args["imgsz"]) or None,  # it returns 0 where it fails
    )


def _run(predictor: Any, files: Any, most: int, least: int, limit_s: float) -> list[float]:
    """Milliseconds of each image: at most `most`, and no more than `least` after the limit."""
    taken: list[float] = []
    end = time.monotonic() + limit_s
    while len(taken) < most and (len(taken) < least or time.monotonic() < end):
        pixels = imread(str(next(files)))
        started = time.perf_counter()
        (found,) = predictor(pixels)
        found.boxes.data.cpu()  # also waits for a GPU to be done
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"cpu: {get_cpu_info()} ({threads} thread{'' if threads == 1 else 's'})"
