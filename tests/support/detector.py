"""A small detector that really finds something, and packages as versions in MLflow's registry."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.training import TRAIN, Recorder, make_images, make_job

from hpo.settings import Settings
from hpo.tracking.client import open_client
from hpo.tracking.registry import DECISION, Registry
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.shared import Shared

    from hpo.tracking.registry import Version
    from hpo.trainer import Job, Package


@dataclasses.dataclass(frozen=True)
class Detector:
    """Weights after 30 epochs on 16 drawn images, mAP50 about 0.8, and what made them."""

    process: TrainingProcess
    data: Path
    weights: Path

    def job(self, run_dir: Path, **changes: Any) -> Job:
        """A job on the same data, with changes."""
        fields = {"model": "yolov8n.yaml", "train": TRAIN, "params": {"lr0": 0.005}, "epochs": 30}
        return make_job(run_dir, data=self.data, **{**fields, **changes})

    @property
    def images(self) -> list[Path]:
        """The validation images, by name."""
        return sorted((self.data.parent / "images" / "val").iterdir())


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the run's one training of 30 epochs left: read by all, written by none.

    Attributes:
        data: YAML of 16 drawn images.
        weights: mAP50 about 0.8 on them.
    """

    data: Path
    weights: Path


@pytest.fixture(scope="session")
def trained(shared: Shared) -> Trained:
    """The weights that every test of a real detector starts from, trained once a run."""

    def make(folder: Path) -> str:
        with TrainingProcess("yolo", folder / "logs", environment(folder)) as process:
            one = Detector(process, make_images(folder / "images"), folder)
            weights = process.train(one.job(folder / "run"), Recorder()).weights
        assert weights is not None
        return str(weights)

    weights = Path(shared.once("detector", make))
    return Trained(shared.folder / "detector" / "images" / "data.yaml", weights)


def environment(folder: Path) -> dict[str, str]:
    """Variables of a training that uses one core and nobody's settings."""
    return {"OMP_NUM_THREADS": "1", "XDG_CONFIG_HOME": str(folder / "config")}


@pytest.fixture(scope="session")
def detector(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    """The trained detector and a process that works with it."""
    root = tmp_path_factory.mktemp("detector")
    with TrainingProcess("yolo", root / "logs", environment(root)) as process:
        yield Detector(process, trained.data, trained.weights)


def register(
    uri: str, package: Package, folder: Path, *, name: str = "", tags: dict[str, str] | None = None
) -> Version:
    """A version with the alias `champion`, of a model of its own unless one is named."""
    settings = dataclasses.replace(Settings.read({}, folder), tracking_uri=uri)
    client, key = open_client(settings, uri), uuid.uuid4().hex
    name = name or f"detector-{key[:8]}"
    kept = (folder / key).as_uri() if uri.startswith("postgres") else None
    run = client.create_run(client.create_experiment(key, artifact_location=kept))
    registry = Registry(client)
    version = registry.create(
        name, run.info.run_id, package, tags={DECISION: key, **(tags or {})}, params={},
        description="of a test",
    )  # fmt: skip
    registry.move_alias(version, "champion")
    return version
