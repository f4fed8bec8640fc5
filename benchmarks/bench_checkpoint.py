"""What checkpoints cost a training with the built-in quick study's settings.

Trains by turns without checkpoints and with one after each epoch, which a thread takes to a store
on this disk as a worker's does. Prints the time from one report to the next in both, and how much
of it the trainer itself spent on writing the state. The first epoch of a training, which also
loads the data, is left out, and so is the last, which has no checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.datasets import builtin
from hpo.storage.artifacts.folder import FolderStore
from hpo.studies.study_file import read_study_file
from hpo.trainer import Directive, Job
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from concurrent.futures import Future

    from hpo.storage.artifacts.store import Stored
    from hpo.studies.spec import StudySpec
    from hpo.trainer import Epoch

AREA = "checkpoints/bench/0"


@dataclass
class Timed:
    """A report that stores checkpoints and takes the time.

    Attributes:
        store: where checkpoints go.
        epoch_s: seconds from one report to the next.
        writing_s: of these, what was neither training nor validation.
        upload_s: seconds of each upload, most of them beside the training.
        state_bytes: size of the last state.
    """

    store: FolderStore
    epoch_s: list[float] = field(default_factory=list)
    writing_s: list[float] = field(default_factory=list)
    upload_s: list[float] = field(default_factory=list)
    state_bytes: int = 0
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _uploads: list[Future[Stored]] = field(default_factory=list)
    _since: float = 0.0

    def __call__(self, epoch: Epoch) -> Directive:
        now = time.monotonic()
        if epoch.number > 1:
            self.epoch_s.append(now - self._since)
            self.writing_s.append(now - self._since - epoch.metrics["seconds"])
        if epoch.checkpoint is not None:
            state = epoch.checkpoint.state
            self.state_bytes = state.stat().st_size
            self._uploads.append(self._pool.submit(self._upload, state))
        self._since = time.monotonic()
        return Directive.GO

    def end(self) -> None:
        """Forget the last epoch, and let an error of an upload be seen."""
        del self.epoch_s[-1:], self.writing_s[-1:]
        self._pool.shutdown()
        for upload in self._uploads:
            upload.result()

    def _upload(self, state: Path) -> Stored:
        started = time.monotonic()
        stored = self.store.put(state, AREA)
        state.unlink()
        self.upload_s.append(time.monotonic() - started)
        return stored


def main() -> None:
    """Train, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = read_study_file(None, {}, home=folder)
        FolderStore(folder / "store").require_writable()  # makes it
        runs: dict[int, list[Timed]] = {0: [], 1: []}
        with TrainingProcess(spec.trainer, folder / "logs") as process:
            for number in range(options.rounds + 1):
                for every, timed in runs.items():
                    seen = Timed(FolderStore(folder / "store"))
                    job = make_job(spec, folder, f"{number}-{every}", options.epochs, every)
                    process.train(job, seen)
                    seen.end()
                    if number:  # the first of each kind warms up
                        timed.append(seen)
        show(runs)


def make_job(spec: StudySpec, folder: Path, name: str, epochs: int, every: int) -> Job:
    """A trial of the study with its first baseline's parameters."""
    return Job(
        trial=0,
        model=spec.model,
        params=spec.baselines[0],
        train=spec.train,
        epochs=epochs,
        seed=spec.seed,
        metric=spec.objective.metric,
        direction=spec.objective.direction,
        data=builtin.resolve(str(spec.data), home=folder, base=folder),
        device="cpu",
        run_dir=folder / "runs" / name,
        checkpoint_every=every,
    )


def show(runs: dict[int, list[Timed]]) -> None:
    """Medians, as Markdown."""
    print("| checkpoints | epoch, s | of it not training, s |")
    print("| --- | --- | --- |")
    epoch_s, writing_s = {}, {}
    for every, timed in runs.items():
        epoch_s[every] = statistics.median(s for run in timed for s in run.epoch_s)
        writing_s[every] = statistics.median(s for run in timed for s in run.writing_s)
        kind = "after each epoch" if every else "none"
        print(f"| {kind} | {epoch_s[every]:.3f} | {writing_s[every]:.4f} |")
    upload_s = statistics.median(s for run in runs[1] for s in run.upload_s)
    # Of the same epochs, so that it holds on a busy machine too
    waits = [
        waited / (whole - waited)
        for run in runs[1]
        for whole, waited in zip(run.epoch_s, run.writing_s, strict=True)
    ]
    print(
        f"\na state of {runs[1][-1].state_bytes / 1e6:.1f} MB; the training waits "
        f"{statistics.median(waits):.1%} of an epoch for it; an epoch with its "
        f"upload ({upload_s:.2f} s, beside the training) takes {epoch_s[1] / epoch_s[0] - 1:+.1%}"
    )


if __name__ == "__main__":
    main()
