"""Evaluate the present champion on a study's test split, or take its recorded figures."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpo.datasets.data_yaml import TEST_SPLIT
from hpo.errors import WeightsError
from hpo.evaluation.detections import Detections
from hpo.evaluation.record import EvaluationRecord
from hpo.promotion.evidence import Evidence
from hpo.promotion.ledger import promotion_of
from hpo.storage.artifacts.store import sha256_of
from hpo.trainer import Job, load_trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.studies.store import Study
    from hpo.tracking.registry import Registry, Version
    from hpo.trainer import Evaluation, Package


class TrainerRuntime(Protocol):
    """A trainer's heavy verbs, run elsewhere than in this process."""

    def evaluate(self, weights: Path, job: Job, split: str) -> Evaluation:
        """Evaluate weights on a split of the job's dataset, as `Trainer.evaluate` does."""
        ...

    def package(self, weights: Path, job: Job) -> Package:
        """Gather what a registry needs to load the weights, as `Trainer.package` does."""
        ...

    def export_onnx(self, weights: Path, job: Job) -> Path:
        """Weights as an ONNX file that detects the same.

        Raises:
            ExportError: it does not, or cannot be made.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluatedChampion:
    """The champion, as it is to be beaten.

    Attributes:
        version: its number.
        study: of the study that made it; None where that is not known.
        trial: its trial's number.
        evaluated: its figures on the test split of the challenger's study.
        detections: what it found there; None from a trainer that detects nothing.
        again: whether they were found now.
    """

    version: int
    study: str | None
    trial: int | None
    evaluated: EvaluationRecord
    detections: Detections | None
    again: bool


@dataclass(frozen=True)
class TestSplit:
    """The test split on which both are judged, and where this machine has it.

    Attributes:
        data: the dataset's YAML; None where the trainer needs none.
        fingerprint: of the test split.
        device: what to evaluate on.
        scratch: a folder that is removed afterwards.
    """

    data: Path | None
    fingerprint: str
    device: str
    scratch: Path


@dataclass(frozen=True, kw_only=True)
class ChampionEvaluator:
    """Finds out how good the champion is.

    Attributes:
        connection: for what our own record says of it.
        study: the challenger's.
        registry: where the champion is.
        store: where weights and detections lie by content.
        runtime: where it is evaluated.
        test_split: finds it when it is needed.
        progress: told what takes long.
        keep: whether the store may keep what the champion finds; not in a dry run.
    """

    connection: Connection
    study: Study
    registry: Registry
    store: ArtifactStore
    runtime: TrainerRuntime
    test_split: Callable[[], TestSplit]
    progress: Callable[[str], None]
    keep: bool = True

    def evaluated(self, champion: Version) -> EvaluatedChampion:
        """The champion with figures on this study's test split.

        Raises:
            WeightsError: it cannot be evaluated here: its weights are gone or of another trainer.
            MismatchError: the test split is not as it was.
            ServiceError: a service went away meanwhile.
        """
        row = self._row(champion)
        known = Evidence() if row is None else Evidence.from_json(row.evidence)
        study, trial = (None, None) if row is None else (row.study_name, row.trial_number)
        recorded = self._recorded(known)
        evaluated, detections = recorded or self._evaluate(champion, known)
        return EvaluatedChampion(
            version=champion.number,
            study=study,
            trial=trial,
            evaluated=evaluated,
            detections=detections,
            again=recorded is None,
        )

    def _row(self, champion: Version) -> Any:
        """Our own record of the champion: tags can be set by anyone."""
        if champion.decision is None:
            return None
        return promotion_of(self.connection, champion.decision)

    def _recorded(self, known: Evidence) -> tuple[EvaluationRecord, Detections | None] | None:
        """Its recorded figures, where those are of this very split and can be resampled."""
        evaluated = known.evaluation
        if evaluated is None or known.code_version != self.study.code_version:
            return None
        if evaluated.test_fingerprint != self.study.test_fingerprint:
            return None
        sha256 = evaluated.detections_sha256
        try:
            found = None if sha256 is None else load_detections(self.store, sha256)
        except WeightsError:
            return None
        return evaluated, found

    def _evaluate(
        self, champion: Version, known: Evidence
    ) -> tuple[EvaluationRecord, Detections | None]:
        spec = self.study.spec
        if known.trainer != spec.trainer:
            raise WeightsError(
                f"it is of the trainer {known.trainer}, this study's is {spec.trainer}"
            )
        sha256 = known.weights_sha256 or ""
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise WeightsError(f"the sha256 of its weights is recorded as {sha256!r}")
        test_split = self.test_split()
        self.progress(f"evaluating the champion, version {champion.number}, on this test split")
        name = (known.weights_name or "weights/best.pt").rpartition("/")[2]
        folder = Path(tempfile.mkdtemp(dir=test_split.scratch))
        try:
            weights = self.store.fetch(sha256, folder / name)
        except WeightsError:
            weights = self.registry.fetch(champion, sha256, folder / "version")
        job = champion_job(self.study, known, test_split, folder / "run")
        evaluation = self.runtime.evaluate(weights, job, TEST_SPLIT)
        file = evaluation.detections
        if file is not None and self.keep:
            self.store.put(file)
        evaluated = EvaluationRecord.of(
            evaluation, weights_sha256=sha256, test_fingerprint=test_split.fingerprint,
            detections_sha256=None if file is None else sha256_of(file),
        )  # fmt: skip
        return evaluated, None if file is None else Detections.load(file)


def champion_job(study: Study, known: Evidence, test_split: TestSplit, folder: Path) -> Job:
    """The champion's own training as the context of its evaluation, on the challenger's data."""
    spec = study.spec
    folder.mkdir(parents=True)
    described = load_trainer(spec.trainer).describe().arguments
    params = {name: value for name, value in (known.params or {}).items() if name in described}
    return Job(
        trial=0, model=spec.model, params=params,
        train=spec.train if known.train is None else known.train,
        epochs=int(params.get("epochs", spec.budget.epochs or 1)), seed=spec.seed,
        metric=spec.objective.metric, direction=spec.objective.direction, data=test_split.data,
        device=test_split.device, run_dir=folder,
    )  # fmt: skip


def load_detections(store: ArtifactStore, sha256: str) -> Detections:
    """Stored detections.

    Raises:
        WeightsError: they are missing or were altered.
    """
    with tempfile.TemporaryDirectory(prefix="hpo-detections-") as folder:
        return Detections.load(store.fetch(sha256, Path(folder) / "detections.npz"))
