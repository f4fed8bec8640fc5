"""`hpo predict`: what a registered model finds, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageChops
from support.command_line import HPO
from support.studies import simulated_study
from support.training import Recorder, make_images, make_job, register

from hpo.promotion import ledger
from hpo.promotion.decision import Decision, Outcome
from hpo.promotion.evidence import Evidence
from hpo.storage.artifacts.store import sha256_of
from workers.simulated.trainer import SimulatedTrainer

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine
    from support.training import Detector

    from hpo.tracking.registry import Version

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@dataclass(frozen=True)
class Desk:
    """A project whose MLflow holds models."""

    folder: Path
    database_url: str
    mlflow_url: str

    def run(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        """What `hpo predict ARGUMENTS` prints: (stdout, stderr). Fails on another exit code."""
        env = os.environ | {
            "HPO_STORAGE": self.database_url,
            "HPO_HOME": str(self.folder / ".hpo"),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
        }
        done = subprocess.run(
            [HPO, "predict", *map(str, arguments)],
            cwd=self.folder, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout, done.stderr

    def json(self, *arguments: object) -> Any:
        """The one document that it prints with --json."""
        return json.loads(self.run(*arguments, "--json")[0])


@pytest.fixture
def desk(database_url: str, mlflow_url: str, tmp_path: Path) -> Desk:
    """A project of the test's own, on the shared MLflow."""
    (tmp_path / ".hpo").mkdir()
    return Desk(tmp_path, database_url, mlflow_url)


@pytest.fixture
def simulated(desk: Desk) -> Version:
    """A registered model of the simulated trainer."""
    job, trainer = make_job(desk.folder / "run"), SimulatedTrainer()
    job.run_dir.mkdir()
    weights = trainer.train(job, Recorder()).weights
    assert weights is not None
    package = trainer.package(weights, job)
    return register(desk.mlflow_url, package, desk.folder, tags={"simulated": "true"})


@pytest.mark.promotion
def test_a_simulated_model_finds_nothing_and_says_what_it_is(
    desk: Desk, simulated: Version
) -> None:
    """By name, by alias, by version and as MLflow writes it; one JSON document, nothing else."""
    images = make_images(desk.folder / "images", count=2).parent / "images" / "val"
    table, said = desk.run(simulated.model, images)
    assert table.startswith("SIMULATED")
    assert table.count("nothing found") == 2
    assert f"0 boxes in 2 images, {simulated.model} version 1" in table
    assert f"loading {simulated.model} version 1" in said
    for text in (f"{simulated.model}/1", f"models:/{simulated.model}@champion"):
        document = desk.json(text, images / "0.png")
        assert (document["model"], document["version"]) == (simulated.model, 1)
        assert (document["simulated"], document["params"]) == (True, {})
        (one,) = document["images"]
        assert (one["width"], one["height"], one["boxes"], one["saved"]) == (64, 64, [], None)


@pytest.mark.promotion
def test_an_unknown_model_alias_or_version_is_named_with_the_nearest(
    desk: Desk, simulated: Version
) -> None:
    """Exit 2, and what there is."""
    images = make_images(desk.folder / "images", count=1).parent / "images" / "val"
    model = simulated.model
    _, said = desk.run(f"{model}x", images, code=2)
    assert f"has no model '{model}x' (did you mean '{model}'?)" in said
    _, said = desk.run(f"{model}@champignon", images, code=2)
    assert f"{model} has no alias 'champignon' (did you mean 'champion'?)" in said
    _, said = desk.run(f"{model}/7", images, code=2)
    assert f"{model} has no version 7" in said


def test_images_are_looked_at_before_any_model_is_loaded(desk: Desk) -> None:
    """A wrong file costs no start of MLflow: the model named here does not even exist."""
    (desk.folder / "text.jpg").write_text("no image")
    _, said = desk.run("no-model", "text.jpg", code=2)
    assert "text.jpg: no image that can be read" in said
    _, said = desk.run("no-model", "gone.jpg", code=2)
    assert "gone.jpg: no such file or folder" in said


@pytest.mark.promotion
def test_a_detector_s_boxes_are_printed_and_drawn(desk: Desk, detector: Detector) -> None:
    """The same boxes in table, document and picture; the input stays as it was."""
    package = detector.process.package(detector.weights, detector.job(desk.folder / "run"))
    version = register(desk.mlflow_url, package, desk.folder)
    inputs = detector.images
    before = [path.read_bytes() for path in inputs]
    document = desk.json(version.model, inputs[0].parent, "--conf", "0.05", "-o", "drawn")
    assert document["params"] == {"conf": 0.05, "iou": 0.7}
    assert [one["image"] for one in document["images"]] == [str(path) for path in inputs]
    found = [one for one in document["images"] if one["boxes"]]
    assert len(found) > 10, "the weights find something"
    for one in found:
        with Image.open(desk.folder / one["saved"]) as drawn, Image.open(one["image"]) as plain:
            assert ImageChops.difference(drawn.convert("RGB"), plain.convert("RGB")).getbbox()
    assert [path.read_bytes() for path in inputs] == before
    best = found[0]["boxes"][0]
    table, _ = desk.run(version.model, found[0]["image"], "--conf", "0.05", "--save")
    line = next(line for line in table.splitlines() if found[0]["image"] in line)
    assert line.split()[1:4] == [best["name"], f"{best['confidence']:.3f}", f"{best['x1']:.1f},"]
    assert "Drawn into predictions/." in table
    assert len(list((desk.folder / "predictions").iterdir())) == 1


@pytest.mark.promotion
def test_altered_weights_are_not_used(desk: Desk, detector: Detector) -> None:
    """The registered sha256 decides; the message says which file."""
    from pathlib import Path

    package = detector.process.package(detector.weights, detector.job(desk.folder / "run"))
    version = register(desk.mlflow_url, package, desk.folder)
    weights = Path(version.source.removeprefix("file://")) / "artifacts" / "best.pt"
    weights.write_bytes(weights.read_bytes()[:-5] + b"other")
    _, said = desk.run(version.model, detector.images[0], code=1)
    assert "was altered: its sha256 is" in said


@pytest.mark.promotion
def test_a_promoted_version_is_compared_with_postgresql_before_its_code_runs(
    desk: Desk, simulated: Version, engine: Engine
) -> None:
    """Whoever can write MLflow's files cannot write our record: other weights are refused."""
    from pathlib import Path

    folder = Path(simulated.source.removeprefix("file://"))
    (weights,) = (folder / "artifacts").iterdir()
    evidence = Evidence(decision=simulated.decision, weights_sha256=sha256_of(weights))
    study = simulated_study(engine)
    decision = Decision(
        outcome=Outcome.PROMOTED, study=study.name, model=simulated.model, alias="champion",
        reason="better", trial=0, version=1, evidence=evidence,
    )  # fmt: skip
    with engine.begin() as connection:
        ledger.insert(connection, study, uuid.uuid4(), decision)
    images = make_images(desk.folder / "images", count=1).parent / "images" / "val"
    desk.run(simulated.model, images)
    ran = desk.folder / "ran"
    (code,) = folder.glob("*.py")
    code.write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n{code.read_text()}")
    weights.write_text("{}")
    _, said = desk.run(simulated.model, images, code=1)
    assert "was altered: no file of it has the sha256" in said
    assert not ran.exists()
