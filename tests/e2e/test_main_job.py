"""The main job as a user does it: a study of real YOLO trainings on Ray, to a champion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import Project, free_port, project_in, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREDICT = """
import json, sys
import mlflow, numpy as np, pandas as pd
from pathlib import Path

# The model must load where this package is not: its names cannot be imported here.
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hpo", "workers", "search_spaces"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())

mlflow.set_tracking_uri(sys.argv[1])
image = Path(sys.argv[3])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@champion")
from PIL import Image
array = np.asarray(Image.open(image).convert("RGB"))
frame = pd.DataFrame({"image": [str(image), image.read_bytes(), array]})
boxes = model.predict(frame, params={"conf": 0.001})
print(json.dumps({"columns": list(boxes.columns), "rows": sorted(set(boxes["image"].tolist())),
                  "count": len(boxes)}))
"""


def make_study(project: Project, trials: int) -> None:
    project.run(
        "data", "shapes", "--imgsz", "64", "--train", "32", "--val", "16", "--test", "4",
        "-o", "shapes",
    )  # fmt: skip
    project.run(
        "create-study", "--name", "small", "--data", "shapes/data.yaml", "--trials", str(trials),
        "--epochs", "3", "--set", "train.imgsz=64", "--set", "train.batch=8",
        "--set", "pruner.min_epochs=1", "--set", "promotion.min_value=-1",  # it learns nothing
    )  # fmt: skip


def training(project: Project) -> dict[str, Any] | None:
    """A worker with an epoch behind it and another before it."""
    for worker in project.json("status", "--study", "small")["workers"]:
        if worker["trial"] is not None and worker["epoch"] in (1, 2):
            return worker
    return None


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, stopped_home: Path
) -> Iterator[tuple[Project, dict[str, Any]]]:
    """A study that two Ray workers finished although one was killed in mid-trial; who it was."""
    with project_in(tmp_path_factory.mktemp("main-job"), stopped_home) as project:
        make_study(project, trials=4)
        launched = project.start("launch", "--workers", "2", "--study", "small")
        try:
            victim = wait_for(lambda: training(project), "a worker between two epochs")
            os.kill(int(victim["worker"].partition(":")[2]), signal.SIGKILL)
            assert launched.wait(timeout=600) == 0, project.logs()
        finally:
            launched.kill()
            launched.wait()
        yield project, victim


pytestmark = pytest.mark.timeout(900)  # real trainings on two cores that others may use


def test_the_budget_is_exact_although_a_worker_was_killed(killed: Any) -> None:
    """Four trials are four trials, each ended once."""
    project, _ = killed
    status = project.json("status", "--study", "small")
    assert status["state"] == "finished"
    assert status["budget"] == {"trials": 4, "claimed": 4, "epochs": 3}
    assert sum(status["counts"].values()) == 4
    assert status["counts"]["failed"] == 0
    trials = project.json("trials", "--study", "small")
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]


def test_the_killed_workers_trial_was_taken_over(killed: Any) -> None:
    """The same number and run went on in another process."""
    project, victim = killed
    trials = project.json("trials", "--study", "small")
    taken = next(trial for trial in trials if trial["number"] == victim["trial"])
    assert taken["takeovers"] == 1
    assert taken["worker"] != victim["worker"]
    assert taken["state"] in ("complete", "pruned")


def test_the_best_trial_is_the_champion_once(killed: Any) -> None:
    """One version; asked again by hand, the finalizer finds what was decided."""
    project, _ = killed
    status = project.json("status", "--study", "small")
    assert status["champion"] == {
        "model": "small", "version": 1, "trial": status["best"]["number"], "study": "small",
    }  # fmt: skip
    again = project.json("finalize", "--study", "small")
    assert (again["version"], again["already"]) == (1, True)


def test_mlflow_equals_postgresql_after_the_kill(killed: Any) -> None:
    """Every run is there once with the same figures."""
    project, _ = killed
    assert project.json("mirror", "verify", "--study", "small")["differences"] == []


def test_the_champion_predicts_where_this_package_is_not(killed: Any) -> None:
    """A path, encoded bytes and an array give boxes in the promised columns."""
    project, _ = killed
    env = project.json("env")
    image = next((project.folder / "shapes" / "images" / "test").iterdir())
    done = predict(project.folder, env["MLFLOW_TRACKING_URI"], "small", image)
    assert done["columns"] == ["image", "x1", "y1", "x2", "y2", "class", "name", "confidence"]
    assert done["count"] > 0
    assert done["rows"] == [0, 1, 2], "boxes for the path, the bytes and the array"


def test_weights_altered_in_the_registry_are_refused(killed: Any) -> None:
    """The model compares its weights' sha256 with the registered one before it uses them."""
    project, _ = killed
    tracking = project.json("env")["MLFLOW_TRACKING_URI"]
    models = project.folder / ".hpo" / "artifacts" / "mlflow" / "models"
    (weights,) = models.rglob("best.pt")
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-9] + b"tampered!")
    try:
        image = next((project.folder / "shapes" / "images" / "test").iterdir())
        with pytest.raises(AssertionError, match="was altered: its sha256 is"):
            predict(project.folder, tracking, "small", image)
    finally:
        weights.write_bytes(kept)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.cluster
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: Debian's package `chromium`")
def test_the_pages_show_the_study_in_a_browser(killed: Any) -> None:
    """MLflow's page lists the runs, optuna-dashboard's page the study, in a real browser."""
    project, _ = killed
    ports = ("--mlflow-port", str(free_port()), "--dashboard-port", str(free_port()))
    ports = ("--mlflow-port", str(free_port()), "--dashboard-port", str(free_port()))
    services = project.json("up", *ports)
    best = project.json("status", "--study", "small")["best"]["number"]
    run_id = project.json("trials", "--study", "small")[best]["run_id"]
    address = services["mlflow"]["address"]
    experiment = f"{address}/#/experiments/{experiment_of(address, run_id)}"
    finals = project.json("status", "--study", "small")["finals"]["trials"]
    shown = f"<strong>{4 + 1 + finals + 1}</strong> matching runs"  # and of both studies
    assert shown in browse(project.folder, f"{experiment}/runs")
    run_page = browse(project.folder, f"{experiment}/runs/{run_id}")
    assert f"trial-{best:04d}" in run_page
    assert "mAP50" in run_page
    dashboard = f"{services['dashboard']['address']}/dashboard"
    assert "small" in browse(project.folder, dashboard)
    trial_page = browse(project.folder, f"{dashboard}/studies/1/trials?numbers={best}")
    assert run_id in trial_page, "the note links the MLflow run"
    assert "results.png" in trial_page, "the pictures are the trial's artifacts"


def experiment_of(address: str, run_id: str) -> str:
    url = f"{address}/api/2.0/mlflow/runs/get?run_id={run_id}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as answer:
        return str(json.load(answer)["run"]["info"]["experiment_id"])


def browse(folder: Path, url: str) -> str:
    """The page's document after its scripts ran."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder / 'browser'}", "--window-size=1400,900",
            "--virtual-time-budget=30000", "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    return done.stdout


def predict(folder: Path, uri: str, model: str, image: Path) -> Any:
    """Load a champion where this package cannot be imported, and predict in three forms."""
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, uri, model, str(image)], cwd=folder, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])
