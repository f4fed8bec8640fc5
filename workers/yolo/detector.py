"""Adapt Ultralytics' detection trainer: own metric, own stop, no roll-back, exact resume.

Ultralytics is imported at the top: import this module only after `environment.prepare()`. Class
names without "Trainer" get none of Ultralytics' integrations (utils/callbacks/base.py), which are
switched off in the settings too.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralytics.models.yolo.detect import DetectionTrainer

from hpo.errors import TrialError
from hpo.trainer import Checkpoint, Directive, Epoch
from workers.trainer_support import continued_weights, is_due, state_file, weights_file
from workers.yolo.checkpoint import restore, restore_gradients, save_weights, write_state
from workers.yolo.effective_arguments import batch_argument, effective_arguments, require_applied
from workers.yolo.seeding import start_epoch
from workers.yolo.validators import UnhurriedValidator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hpo.trainer import Job

KEYS = {
    "mAP50": "metrics/mAP50(B)",
    "mAP50-95": "metrics/mAP50-95(B)",
    "precision": "metrics/precision(B)",
    "recall": "metrics/recall(B)",
}
WEIGHTS = "best.pt"
RAM_CACHE_BYTES = 1 << 30  # of decoded images


class Leave(Exception):  # noqa: N818 - a verdict on its way out of Ultralytics' loop, no error
    """Raised in a callback: the one clean way out of `train()` in mid-training."""

    def __init__(self, verdict: Directive) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class Detector(DetectionTrainer):  # type: ignore[misc]  # Ultralytics has no types
    """One training.

    Attributes:
        best_epoch: number of the best epoch by the job's metric, the earliest on a tie; None
            before the first one.
        best: file of that epoch's weights; another epoch's is another file.
        effective: the arguments in use; empty before the first batch.
        batches_since_step: batches whose gradients the optimizer has not used yet.
        report_s: seconds spent on checkpoints and in `report`, not in training.
    """

    def __init__(
        self,
        overrides: dict[str, Any],
        job: Job,
        report: Callable[[Epoch], Directive],
        state: dict[str, Any] | None,
    ) -> None:
        """Make a training.

        Args:
            overrides: Ultralytics' arguments.
            job: what is trained.
            report: is told each epoch.
            state: where to go on, of `checkpoint.read_state`; None starts at the first epoch.
        """
        self.best_epoch: int | None = None
        self.best_fitness: float | None = None
        self.effective: dict[str, Any] = {}
        self.batches_since_step = 0
        self.report_s = 0.0
        self._job = job
        self._report = report
        self._state = state
        self._nominal = self._head_start = 0  # see `accumulate`
        self._handed_out: Path | None = None
        self.best: Path  # set by Ultralytics, then by each best epoch
        self._threads = set(threading.enumerate())
        hooks = {
            "on_train_epoch_start": [Detector._start_epoch],
            "on_train_batch_start": [Detector._start_batch],
            "on_train_epoch_end": [Detector._require_finite_training],
            "on_fit_epoch_end": [Detector._end_epoch],
        }
        super().__init__(overrides=overrides, _callbacks=defaultdict(list, hooks))
        if state is not None:
            self.batch_size = self.args.batch = state["batch"]

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
        if self._state is not None and self._state["machine"]["cache"] is None:
            self.args.cache = False  # or dropped for want of memory, which this machine may have
        if self.args.cache is None:
            room = RAM_CACHE_BYTES // (3 * self.args.imgsz**2)
            self.args.cache = "ram" if _at_most(room, [data["train"], data["val"]]) else False
        return data

    def get_validator(self) -> Any:
        validator = UnhurriedValidator(
            self.test_loader, save_dir=self.save_dir, args=copy(self.args),
            _callbacks=self.callbacks,
        )  # fmt: skip
        validator.args.plots = False  # pictures are drawn once, of the best epoch's weights
        return validator

    def plot_training_labels(self) -> None:
        """Draw nothing: this picture shows the dataset, not the trial."""

    def plot_training_samples(self, batch: Any, ni: int) -> None:
        """Draw nothing: pictures of the dataset cost seconds a trial."""

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
        """Keep the best epoch's weights: Ultralytics overwrites them with every later equal one."""
        number = self.epoch + 1
        if self.best_epoch != number:
            return False
        before, self.best = self.best, weights_file(self._job, number, WEIGHTS)
        save_weights(self, self.best)
        if before != self._handed_out:
            before.unlink(missing_ok=True)
        return True

    def final_eval(self) -> None:
        """Validate the best weights for their pictures; those figures are not the trial's."""
        if self.best_epoch is not None:
            self.validator.args.plots = self.args.plots
            self.validator(model=self.best)

    def resume_training(self, ckpt: Any) -> None:
        """Go on from the job's checkpoint, where it has one; called when all is set up."""
        del ckpt  # of pretrained weights
        # The optimizer's values are read before warm-up has moved them
        self.effective = effective_arguments(self)
        require_applied(self._job, self.effective)
        resume = self._job.resume
        if resume is None or self._state is None:
            return
        restore(self, self._state)
        self.effective = self._state["effective"]
        self.start_epoch = resume.epoch
        if best := continued_weights(self._job, resume, WEIGHTS):
            self.best = self._handed_out = best

    def _build_train_pipeline(self) -> None:
        # Ultralytics also comes here to start over with half the batch
        self.batches_since_step = self._head_start = 0
        super()._build_train_pipeline()

    @property
    def accumulate(self) -> int:
        """Batches from one step of the optimizer to the next.

        Ultralytics compares it with `batch - last_step`, and takes the last step to be -1 when it
        starts at a later epoch too. Until the first step of such a life the difference is added.
        """
        return self._nominal + self._head_start

    @accumulate.setter
    def accumulate(self, batches: int) -> None:
        self._nominal = batches

    def optimizer_step(self) -> None:
        super().optimizer_step()
        self.batches_since_step = self._head_start = 0

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Do not roll back: a trial that diverged is one."""
        self._require_finite(self.metrics, epoch)
        return False

    # Our hooks

    def _start_epoch(self) -> None:
        start_epoch(self._job.seed, self.epoch, self.train_loader)
        if self._state is not None:
            restore_gradients(self, self._state["gradients"])
            self.batches_since_step = self._state["batches_since_step"]
            batches_before = len(self.train_loader) * self.epoch
            self._head_start = batches_before - self.batches_since_step
            self._state = None

    def _start_batch(self) -> None:
        self.batches_since_step += 1

    def _require_finite_training(self) -> None:
        # Before the validation, which NaN weights only make slow
        self._require_finite(self.label_loss_items(self.tloss), self.epoch)

    def _require_finite(self, figures: dict[str, float], epoch: int) -> None:
        for name, value in figures.items():
            if "loss" in name and not math.isfinite(value):
                raise TrialError("diverged", f"epoch {epoch + 1}: {name} is {value}")

    def _end_epoch(self) -> None:
        if self.epoch == self.start_epoch:
            self.effective |= batch_argument(self)
            require_applied(self._job, self.effective)
        started = time.time()
        checkpoint, warning = self._checkpoint()
        figures = {**self._figures(), "seconds": self.epoch_time}
        epoch = Epoch(self.epoch + 1, figures, checkpoint, warning)
        verdict = self._report(epoch)
        # Ultralytics started the next epoch's clock before this callback
        self.epoch_time_start = time.time()
        self.report_s += self.epoch_time_start - started
        if verdict is not Directive.GO:
            raise Leave(verdict)

    def _checkpoint(self) -> tuple[Checkpoint | None, str]:
        """The checkpoint where one is due, and why it could not be written."""
        number = self.epoch + 1
        if self.stop or not is_due(self._job, number):
            return None, ""
        try:
            path = state_file(self._job, number, ".pt")
            write_state(path, self._job, self)
        except OSError as error:
            return None, f"no checkpoint of epoch {number}: {error}"
        self._handed_out = self.best
        weights = None if self.best_epoch is None else self.best
        return Checkpoint(number, path, self.best_epoch, weights), ""

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
