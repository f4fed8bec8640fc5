"""What is in the registry can be loaded elsewhere, and who is champion is told truly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import HPO
from support.promotion import PromotionBench, promotions

from hpo.promotion.champion import champion
from hpo.storage.artifacts.store import sha256_of
from hpo.storage.postgres.engine import storage_url
from hpo.tracking.client import open_client

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from support.mlflow_server import MlflowServer

    from hpo.settings import Settings
    from workers.training_process.client import TrainingProcess

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

# Run where this project's source cannot be imported, as on another machine.
ELSEWHERE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hpo", "workers", "search_spaces"):
            raise ImportError(f"{name} is not on this machine")

sys.meta_path.insert(0, Blocker())
import mlflow, numpy, pandas

model = mlflow.pyfunc.load_model(sys.argv[1])
pixels = numpy.zeros((4, 6, 3), numpy.uint8)
for cell in ("photo.jpg", b"encoded", pixels):
    boxes = model.predict(pandas.DataFrame({"image": pandas.Series([cell], dtype=object)}))
    print("BOXES", len(boxes), *boxes.columns)
print("EXAMPLE", *model.input_example.columns)
print("LOADED", "hpo" in sys.modules)
"""


@pytest.fixture(params=["database", "server"])
def anywhere(
    request: pytest.FixtureRequest,
    engine: Engine,
    mirror_settings: Settings,
    runtime: TrainingProcess,
    tmp_path: Path,
) -> PromotionBench:
    """A bench on MLflow's database, and on MLflow's server."""
    settings = mirror_settings
    if request.param == "server":
        server: MlflowServer = request.getfixturevalue("mlflow_server")
        settings = replace(settings, tracking_uri=server.url)
    return PromotionBench(engine, settings, runtime, tmp_path)


@pytest.fixture
def bench(promotion_bench: PromotionBench) -> PromotionBench:
    """On the test's own database, and on the shared MLflow."""
    return promotion_bench


def test_the_champion_loads_and_predicts_without_this_package_s_source(
    anywhere: PromotionBench,
) -> None:
    """A path, encoded bytes and an array are taken; boxes come out; over database and server."""
    study = anywhere.study()
    anywhere.told(study, 0.3, 0.6)
    anywhere.finalize(study)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, f"models:/{anywhere.model}@champion"],
        cwd=anywhere.folder, capture_output=True, text=True, check=False,
        env={**os.environ, "MLFLOW_TRACKING_URI": str(anywhere.settings.tracking_uri)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    boxes = "BOXES 0 image x1 y1 x2 y2 class name confidence"
    lines = [line for line in done.stdout.splitlines() if line.split(" ")[0].isupper()]
    assert lines == [boxes, boxes, boxes, "EXAMPLE image", "LOADED False"]


def test_a_champion_of_other_data_is_fetched_from_the_server_when_the_store_lost_it(
    anywhere: PromotionBench,
) -> None:
    """The version's own files stand in, whichever way MLflow is reached."""
    first = anywhere.study("first", test_fingerprint="0" * 64)
    anywhere.told(first, 0.3, 0.4)
    sha256 = anywhere.finalize(first).evidence.weights_sha256
    (Path(anywhere.settings.artifacts) / "objects" / sha256[:2] / sha256).unlink()
    second = anywhere.study("second", seed=1)
    anywhere.told(second, 0.97, 0.95)
    decision = anywhere.finalize(second)
    assert decision.evidence.champion is not None
    assert (decision.version, decision.evidence.champion.evaluated) == (2, True)


def test_the_version_holds_the_weights_the_signature_and_the_requirements(
    bench: PromotionBench, tmp_path: Path
) -> None:
    """The weights file itself lies among its artifacts, byte for byte."""
    import mlflow.artifacts
    import yaml

    study = bench.study()
    bench.told(study, 0.3, 0.6)
    decision = bench.finalize(study)
    source = bench.client.get_model_version(bench.model, "1").source
    folder = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path / "files")))
    sums = {sha256_of(file) for file in (folder / "artifacts").iterdir()}
    assert decision.evidence.weights_sha256 in sums
    written = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    (column,) = json.loads(written["signature"]["inputs"])
    assert (column["name"], column["type"]) == ("image", "any")
    assert written["run_id"] == decision.evidence.run_id
    requirements = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert requirements == ["mlflow", "pandas"]


def test_where_mlflow_s_alias_differs_from_the_record_it_is_said(bench: PromotionBench) -> None:
    """The record counts; an alias moved or removed outside this service is named."""
    target = (bench.engine, bench.settings, bench.model, "champion")
    assert champion(*target) is None
    first, second = bench.study("first"), bench.study("second")
    bench.told(first, 0.4, 0.6)
    bench.told(second, 0.5, 0.7)
    bench.finalize(first)
    bench.finalize(second)
    found = champion(*target)
    assert found is not None
    assert (found["version"], found["trial"], found["study"]) == (2, 1, second.name)
    assert (found["value"], found["simulated"], found["difference"]) == (0.7, True, "")
    bench.client.set_registered_model_alias(bench.model, "champion", "1")
    moved = champion(*target)
    assert moved is not None
    assert (moved["version"], moved["mlflow_version"]) == (2, 1)
    assert "moved to version 1" in moved["difference"]
    bench.client.delete_registered_model_alias(bench.model, "champion")
    gone = champion(*target)
    assert gone is not None
    assert "has no alias" in gone["difference"]


def test_the_champion_is_told_from_the_record_when_mlflow_is_away(bench: PromotionBench) -> None:
    """PostgreSQL alone suffices; that MLflow was not asked is said."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    bench.finalize(study)
    away = replace(bench.settings, tracking_uri="http://127.0.0.1:9")
    found = champion(bench.engine, away, bench.model, "champion")
    assert found is not None
    assert (found["version"], found["mlflow_version"]) == (1, None)
    assert "cannot be used" in found["difference"]


@pytest.mark.promotion
def test_the_command_line_promotes_once_and_shows_the_champion(bench: PromotionBench) -> None:
    """`hpo finalize` on an open study, dry and real and again, and `hpo champion`."""
    study = bench.study(trials=3)
    bench.told(study, 0.3, 0.6)
    (bench.folder / ".hpo").mkdir(exist_ok=True)
    env = os.environ | {
        "HPO_STORAGE": storage_url(bench.settings),
        "HPO_HOME": str(bench.settings.home),
        "MLFLOW_TRACKING_URI": str(bench.settings.tracking_uri),
    }

    def hpo(*arguments: str) -> str:
        done = subprocess.run(
            [HPO, *arguments, "--study", study.name],
            cwd=bench.folder, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "no champion yet" in hpo("champion")
    assert "are to be looked at again first" in hpo("finalize", "--dry-run")
    bench.finals(study)
    assert "Would promote trial 1" in hpo("finalize", "--dry-run")
    assert promotions(bench.engine) == []
    done = json.loads(hpo("finalize", "--json"))
    assert (done["outcome"], done["version"], done["value"]) == ("promoted", 1, 0.6)
    assert hpo("finalize").startswith("Already promoted trial 1 (mAP50 0.6000")
    shown = json.loads(hpo("champion", "--json"))
    assert (shown["version"], shown["trial"], shown["difference"]) == (1, 1, "")


def test_no_password_is_stored_in_mlflow(bench: PromotionBench, tmp_path: Path) -> None:
    """Neither in the version, nor in its files, nor in its run."""
    from sqlalchemy.engine import make_url

    study = bench.study()
    bench.told(study, 0.3, 0.6)
    decision = bench.finalize(study)
    secret = make_url(storage_url(bench.settings)).password
    assert secret
    client = open_client(bench.settings, storage_url(bench.settings))
    version = client.get_model_version(bench.model, "1")
    run = client.get_run(str(decision.evidence.run_id))
    texts = [str(dict(version)), str(run.to_dictionary()), str(promotions(bench.engine))]
    local = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    files = [*local.rglob("*"), *Path(version.source.removeprefix("file://")).rglob("*")]
    texts += [file.read_text(errors="replace") for file in files if file.is_file()]
    assert len(texts) > 8
    assert not any(secret in text for text in texts)
