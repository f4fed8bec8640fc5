"""Ultralytics' detection trainer with our rules: own metric, own stop, no roll-back.

Imports Ultralytics at its top: import it only after `environment.prepare()`. Class names without
"Trainer" get none of Ultralytics' integrations (utils/callbacks/base.py), which are switched off
in the settings too.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralytics.models.yolo.detect import DetectionTrainer

from hpo.errors import TrialError
from hpo.trainer import Epoch, Verdict
from workers.yolo.effective import batch_argument, effective_arguments, require_applied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hpo.trainer import Job

KEYS = {
    "mAP50": "metrics/mAP50(B)",
    "mAP50-95": "metrics/mAP50-95(B)",
    "precision": "metrics/precision(B)",
    "recall": "metrics/recall(B)",
}
RAM_CACHE_BYTES = 1 << 30  # of decoded images


class Leave(Exception):  # noqa: N818 - a verdict on its way out of Ultralytics' loop, no error
    """Raised in a callback: the one clean way out of `train()` in mid-training."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class Detector(DetectionTrainer):  # type: ignore[misc]  # Ultralytics has no types
    """One training.

    Attributes:
        best_epoch: number of the best epoch by the job's metric, the earliest on a tie; None
            before the first one. `best.pt` is always that epoch's.
        effective: the arguments in use; empty before the first batch.
        report_s: seconds spent in `report`, not in training.
    """

    def __init__(
        self, overrides: dict[str, Any], job: Job, report: Callable[[Epoch], Verdict]
    ) -> None:
        self.best_epoch: int | None = None
        self.best_fitness: float | None = None
        self.effective: dict[str, Any] = {}
        self.report_s = 0.0
        self._job = job
        self._report = report
        self._over = False
        self._threads = set(threading.enumerate())
        hooks = {
            "on_train_start": [Detector._start],
            "on_train_epoch_end": [Detector._require_finite_training],
            "on_fit_epoch_end": [Detector._end_epoch],
        }
        super().__init__(overrides=overrides, _callbacks=defaultdict(list, hooks))

    def release(self) -> None:
        """Give back what an exception leaves behind; waits for pictures still being drawn."""
        # Ultralytics closes its loaders at the regular end only
        for name in ("train_loader", "test_loader"):
            if hasattr(self, name):
                getattr(self, name).close()
        # and draws validation pictures in threads of its own
        for thread in set(threading.enumerate()) - self._threads:
            if not thread.daemon:
                thread.join()

    # What Ultralytics calls

    def get_dataset(self) -> Any:
        """Cache small datasets in memory, decided by size alone.

        Caching changes which images a mosaic may pick, and so the figures: free memory must not
        decide it, nor the machine.
        """
        data = super().get_dataset()
        if self.args.cache is None:
            room = RAM_CACHE_BYTES // (3 * self.args.imgsz**2)
            self.args.cache = "ram" if _at_most(room, [data["train"], data["val"]]) else False
        return data

    def get_validator(self) -> Any:
        validator = super().get_validator()
        validator.args.plots = False  # pictures are drawn once, of the best epoch's weights
        return validator

    def plot_training_labels(self) -> None:
        """Not drawn: it shows the dataset, not the trial."""

    def plot_training_samples(self, batch: Any, ni: int) -> None:
        """Not drawn: seconds a trial, for pictures of the dataset."""

    def validate(self) -> tuple[dict[str, float], float]:
        """Validate; the fitness is the job's metric, where Ultralytics takes mAP50-95."""
        metrics = self.validator(self)
        metrics.pop("fitness", None)
        fitness = metrics[KEYS[self._job.metric]]
        if self.best_fitness is None or fitness > self.best_fitness:
            self.best_fitness = fitness
            self.best_epoch = self.epoch + 1
        return metrics, fitness

    def save_model(self) -> bool:
        """Save the best epoch only: Ultralytics overwrites it with every later equal one."""
        return self.best_epoch == self.epoch + 1 and bool(super().save_model())

    def final_eval(self) -> None:
        """Re-validate the best weights for their pictures; those figures are not the trial's."""
        self._over = True
        super().final_eval()

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """No roll-back: a trial that diverged is one."""
        self._require_finite(self.metrics, epoch)
        return False

    # Our hooks

    def _start(self) -> None:
        self.effective = effective_arguments(self)
        require_applied(self._job, self.effective)
        self.epoch_time_start = time.time()

    def _require_finite_training(self) -> None:
        # Before the validation, which NaN weights only make slow
        self._require_finite(self.label_loss_items(self.tloss), self.epoch)

    def _require_finite(self, figures: dict[str, float], epoch: int) -> None:
        for name, value in figures.items():
            if "loss" in name and not math.isfinite(value):
                raise TrialError("diverged", f"epoch {epoch + 1}: {name} is {value}")

    def _end_epoch(self) -> None:
        if self._over:
            return  # Ultralytics calls once more, for the re-validation
        if self.epoch == self.start_epoch:
            self.effective |= batch_argument(self)
            require_applied(self._job, self.effective)
        started = time.time()
        epoch = Epoch(self.epoch + 1, {**self._figures(), "seconds": self.epoch_time})
        verdict = self._report(epoch)
        # Ultralytics started the next epoch's clock before this callback
        self.epoch_time_start = time.time()
        self.report_s += self.epoch_time_start - started
        if verdict is not Verdict.GO:
            raise Leave(verdict)

    def _figures(self) -> dict[str, float]:
        # Names without parentheses, which MLflow refuses
        figures = {name: self.metrics[key] for name, key in KEYS.items()}
        losses = {**self.label_loss_items(self.tloss), **self.metrics}
        rates = (g["lr"] for g in self.optimizer.param_groups if g.get("param_group") != "bias")
        return {
            **{name: float(value) for name, value in figures.items()},
            **{name: float(value) for name, value in losses.items() if "loss" in name},
            "lr": float(min(rates)),  # biases warm up from another rate; MuSGD triples some
        }


def _at_most(limit: int, sources: Iterable[str | list[str]]) -> bool:
    """Whether the folders (or lists of image files) hold at most `limit` files together."""
    count = 0
    for source in sources:
        for path in map(Path, [source] if isinstance(source, str) else source):
            if path.is_file():
                count += len(path.read_text(encoding="utf-8").splitlines())
            for _, _, files in os.walk(path):
                count += len(files)
                if count > limit:
                    return False
    return count <= limit
