"""Each trial's figures against those of the same training that nothing interrupted."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from support.training import Recorder, make_job

from workers.simulated.trainer import SimulatedTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.record import Record


def figures_are_those_of_an_uninterrupted_training(record: Record) -> Iterator[str]:
    """Every recorded figure of a simulated trial equals the uninterrupted training's."""
    spec = record.study.spec
    if spec.trainer != "simulated":
        return
    with tempfile.TemporaryDirectory() as folder:
        for row in record.leases:
            job = make_job(
                Path(folder) / str(row.number), params=record.params[row.number],
                train={**spec.train, "epoch_s": 0.0}, epochs=record.ordeal.task.epochs,
                seed=spec.seed,
            )  # fmt: skip
            whole = Recorder()
            SimulatedTrainer().train(job, whole)
            for epoch in whole.epochs:
                kept = record.epochs[row.trial_id].get(epoch.number)
                wrong = {name: (kept[name], figure) for name, figure in epoch.metrics.items()
                         if name != "seconds" and kept and kept[name] != figure}  # fmt: skip
                if wrong:
                    yield f"trial {row.number}, epoch {epoch.number}: (kept, whole) {wrong}"


CHECKS = (figures_are_those_of_an_uninterrupted_training,)
