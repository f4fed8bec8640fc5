"""What a worker works with: its settings, services and training process, as one object."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.claims.claims import Claims
    from hpo.settings import Settings
    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.storage.postgres.engine import Database
    from hpo.studies.store import Study
    from workers.events import Watch
    from workers.shutdown import Shutdown
    from workers.training_process.client import TrainingProcess


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What is the same for all studies of a worker.

    Attributes:
        settings: of this machine.
        database: with room for two connections. The mirror's threads and a promotion hold one of
            them at most while MLflow is slow; the worker's thread, the lease heartbeat and the
            checkpoints' uploader take one for a short transaction at a time.
        process: the training process.
        runs: folder in which each run gets one of its own, removed when the trial is told.
        data: the dataset's YAML on this machine; None for trainers without a dataset.
        model: what trainings are given as their model.
        device: what to train on.
        shutdown: the request to leave, and the time that is left for it.
        watch: is told what happens.
        stall_timeout_s: longest silence of a training in seconds; None for no limit.
        slot: a name that outlives this process; None for none.
        started: when the worker began, in seconds of the monotonic clock.
        host: this machine's name, for the record.
    """

    settings: Settings
    database: Database
    process: TrainingProcess
    runs: Path
    data: Path | None
    model: str
    device: str
    shutdown: Shutdown
    watch: Watch
    stall_timeout_s: float | None
    slot: str | None
    started: float
    host: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """What is the same for all trials of a study that a worker runs.

    Attributes:
        worker: the worker's own context.
        study: the study, or its finals.
        claims: the study's claims.
        store: where checkpoints, weights and pictures go.
        test_fingerprint: of the test split as it is here, for finals; "" for other trials.
    """

    worker: WorkerContext
    study: Study
    claims: Claims
    store: ArtifactStore
    test_fingerprint: str = ""
