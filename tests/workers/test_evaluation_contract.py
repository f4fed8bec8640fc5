"""What an evaluation gives, from every trainer; run in the training process."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.training import SIMULATED, YOLO, Recorder, measured, stored

from hpo.errors import DatasetError
from hpo.evaluation.average_precision import figures
from hpo.trainer import load_trainer
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.training import Kind

    from hpo.trainer import Job


class EvaluationContract:
    """What any trainer's `evaluate` promises."""

    kind: Kind

    @pytest.fixture(scope="class")
    @classmethod
    def process(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingProcess]:
        with TrainingProcess(cls.kind.name, tmp_path_factory.mktemp("logs")) as process:
            yield process

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
        return cls.kind.data(tmp_path_factory.mktemp("images"))

    @pytest.fixture
    def job(self, tmp_path: Path, data: Path | None) -> Job:
        return self.kind.job(tmp_path / "run", data)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(
        cls,
        process: TrainingProcess,
        data: Path | None,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> list[Path]:
        """Of two trainings of one epoch, with other seeds."""
        kept = []
        for seed in (0, 1):
            job = cls.kind.job(tmp_path_factory.mktemp("seed") / "run", data, seed=seed, epochs=1)
            found = process.train(job, Recorder()).weights
            assert found is not None
            kept.append(found)
        return kept

    def test_an_evaluation_is_complete(
        self, process: TrainingProcess, job: Job, weights: list[Path]
    ) -> None:
        """Every figure that may be the objective, and what the weights cost to run, on what."""
        evaluation = process.evaluate(weights[0], job, "val")
        assert set(load_trainer(self.kind.name).describe().metrics) <= set(evaluation.metrics)
        assert all(math.isfinite(value) for value in evaluation.metrics.values())
        assert evaluation.images > 0
        assert 0 < evaluation.latency_ms["median"] <= evaluation.latency_ms["p95"]
        assert job.device in evaluation.device
        assert evaluation.parameters
        assert evaluation.gflops
        assert evaluation.weights_bytes == weights[0].stat().st_size
        assert evaluation.settings["imgsz"] == job.train.get("imgsz", 640)
        assert evaluation.detections is not None
        assert evaluation.detections.is_relative_to(job.run_dir)

    def test_an_evaluations_figures_follow_from_its_detections(
        self, process: TrainingProcess, job: Job, weights: list[Path]
    ) -> None:
        """What is computed from the file again equals what was told, of each class too."""
        evaluation = process.evaluate(weights[0], job, "val")
        again = figures(stored(evaluation))
        told = {name: evaluation.metrics[name] for name in again.metrics}
        assert told == pytest.approx(dict(again.metrics), abs=1e-6)
        assert set(evaluation.per_class) == set(again.per_class)
        for name, one in again.per_class.items():
            assert evaluation.per_class[name] == pytest.approx(dict(one), abs=1e-6)

    def test_a_splits_images_are_the_same_for_all_weights(
        self, process: TrainingProcess, job: Job, weights: list[Path]
    ) -> None:
        """Names, sizes and true boxes, in one order: what two models find can be paired."""
        evaluation = process.evaluate(weights[0], job, "val")
        first = stored(evaluation)
        second = stored(process.evaluate(weights[1], job, "val"))
        assert len(first.images) == len(set(first.images)) == evaluation.images
        assert first.images == second.images == tuple(sorted(first.images))
        assert not [name for name in first.images if Path(name).is_absolute() or "\\" in name]
        for name in ("sizes", "true_image", "true_box", "true_kind"):
            assert np.array_equal(getattr(first, name), getattr(second, name)), name
        assert first.names == second.names

    def test_detections_are_in_keeping_with_themselves(
        self, process: TrainingProcess, job: Job, weights: list[Path]
    ) -> None:
        """Shapes agree; boxes lie in their image; no true box is matched twice at an overlap."""
        found = stored(process.evaluate(weights[0], job, "val"))
        count, true = len(found.image), len(found.true_image)
        assert true > 0
        assert (found.box.shape, found.correct.shape) == ((count, 4), (count, 10))
        assert found.confidence.shape == found.kind.shape == (count,)
        assert (found.true_box.shape, found.true_kind.shape) == ((true, 4), (true,))
        sides = found.sizes[found.image][:, ::-1]
        assert (found.box >= 0).all()
        assert (found.box[:, 2:] <= sides).all()
        assert ((found.confidence > 0) & (found.confidence <= 1)).all()
        for image, kind in set(zip(found.image.tolist(), found.kind.tolist(), strict=True)):
            matched = found.correct[(found.image == image) & (found.kind == kind)].sum(0)
            boxes = ((found.true_image == image) & (found.true_kind == kind)).sum()
            assert (matched <= boxes).all()

    def test_the_same_weights_give_the_same_detections(
        self, process: TrainingProcess, job: Job, weights: list[Path], tmp_path: Path
    ) -> None:
        """Byte by byte, in another folder too."""
        other = dataclasses.replace(job, run_dir=tmp_path / "other")
        assert measured(process, weights[0], job) == measured(process, weights[0], other)

    def test_a_split_that_is_not_there_is_named(
        self, process: TrainingProcess, job: Job, weights: list[Path]
    ) -> None:
        """An unknown split is the dataset's fault, in words."""
        with pytest.raises(DatasetError, match="dev: no such split"):
            process.evaluate(weights[0], job, "dev")


class TestSimulated(EvaluationContract):
    """The simulated trainer."""

    kind = SIMULATED


class TestYolo(EvaluationContract):
    """YOLOv8n after one epoch on 16 drawn images of 64 px."""

    kind = YOLO
