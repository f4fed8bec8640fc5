"""The trainers that keep the contracts: a small job of each, and what an evaluation left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.training import make_images, make_job

from hpo.evaluation.detections import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hpo.trainer import Evaluation, Job
    from workers.training_process.client import TrainingProcess


@dataclass(frozen=True)
class Kind:
    """A trainer and a job that it does in a moment.

    Attributes:
        name: its entry point.
        model, train, params: of the job.
        draws: whether it wants a dataset.
    """

    name: str
    model: str
    train: Mapping[str, Any]
    params: Mapping[str, Any]
    draws: bool

    def data(self, folder: Path) -> Path | None:
        """A dataset of 16 drawn images of 64 px, where one is wanted."""
        return make_images(folder) if self.draws else None

    def job(self, run_dir: Path, data: Path | None, **changes: Any) -> Job:
        """The job, with changes."""
        fields = {"model": self.model, "train": self.train, "params": self.params, "data": data}
        return make_job(run_dir, **{**fields, **changes})


SIMULATED = Kind("simulated", "simulated", {"epoch_s": 0.01}, {"x": 0.5}, draws=False)
YOLO = Kind(
    name="yolo",
    model="yolov8n.yaml",  # from scratch
    train={"imgsz": 64, "batch": 8, "optimizer": "AdamW", "plots": False},
    params={"lr0": 0.004},
    draws=True,
)


def stored(evaluation: Evaluation) -> Detections:
    """The detections that an evaluation left."""
    assert evaluation.detections is not None
    return Detections.load(evaluation.detections)


def measured(process: TrainingProcess, weights: Path, job: Job) -> tuple[Any, Any, bytes]:
    """All of an evaluation that the weights and the images alone decide."""
    evaluation = process.evaluate(weights, job, "val")
    assert evaluation.detections is not None
    return evaluation.metrics, evaluation.per_class, evaluation.detections.read_bytes()
