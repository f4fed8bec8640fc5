"""The studies that the fault suite runs."""

from __future__ import annotations

from typing import Any

from faults.ordeal import Task

WAITING = "waiting"
_OBJECTIVE = {"metric": "mAP50", "direction": "maximize"}


def simulated(name: str, seed: int, *, trials: int, workers: int, **changes: Any) -> Task:
    """Trials of ten epochs of a quarter of a second, pruned as usual; `changes` are keys."""
    document: dict[str, Any] = {
        "trainer": "simulated",
        "model": "simulated",
        "search_space": "simulated",
        "objective": _OBJECTIVE,
        "budget": {"trials": trials, "epochs": 10},
        "sampler": {"name": "tpe", "seed": seed, "startup_trials": 4},
        "pruner": {"name": "hyperband", "min_epochs": 3},
        "train": {"epoch_s": 0.25},
    }
    return Task(name, document | changes, workers, seed)


def waiting(seed: int, *, epochs: int) -> Task:
    """Two long trials and four workers, so that a worker waits whenever another one dies."""
    return simulated(
        WAITING, seed, trials=2, workers=4,
        budget={"trials": 2, "epochs": epochs}, pruner={"name": "none"},
    )  # fmt: skip


def yolo(name: str, seed: int) -> Task:
    """Real trainings on drawn shapes."""
    document: dict[str, Any] = {
        "trainer": "yolo",
        "model": "yolov8n.yaml",
        "data": "shapes",
        "search_space": "yolov8n-quick",
        "objective": _OBJECTIVE,
        "budget": {"trials": 4, "epochs": 3},
        "sampler": {"name": "random", "seed": seed},
        "pruner": {"name": "none"},
        "train": {"imgsz": 64, "batch": 16, "optimizer": "AdamW"},
    }
    return Task(name, document, 2, seed)
