"""The commands that decision.md gives load, serve and ask a registered detector as they stand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from support import exhibits
from support.command_line import free_port, wait_for
from support.training import register

from hpo.promotion.report.usage import PORT, steps

if TYPE_CHECKING:
    from pathlib import Path

    from support.training import Detector

pytestmark = [
    pytest.mark.promotion,
    # MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


def test_the_commands_of_a_decision_work(
    detector: Detector, mlflow_url: str, tmp_path: Path
) -> None:
    """Both ways of loading, and the server with its curl, on a version in MLflow's registry."""
    package = detector.process.package(detector.weights, detector.job(tmp_path / "run"))
    version = register(mlflow_url, package, tmp_path)
    exhibit = exhibits.exhibit()
    exhibit = replace(exhibit, decision=replace(exhibit.decision, model=version.model))
    code = {step.title: step.code for step in steps(exhibit)}
    with Image.open(detector.images[0]) as image:
        image.convert("RGB").save(tmp_path / "photo.jpg", quality=95)
    env = os.environ | {
        # What `hpo env` prints
        "MLFLOW_TRACKING_URI": mlflow_url, "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1",
        "YOLO_CONFIG_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore",
    }  # fmt: skip

    def ran(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""

    load = code["How to load it"] + '\nprint(",".join(boxes.columns))'
    assert ran(sys.executable, "-c", load) == "image,x1,y1,x2,y2,class,name,confidence"
    weights = code["How to load the weights alone"] + "\nprint(model.task)"
    assert ran(sys.executable, "-c", weights) == "detect"

    port = str(free_port())
    (tmp_path / ".venv").symlink_to(sys.prefix)
    lines = code["How to serve it"].replace(str(PORT), port).splitlines()
    serve = "\n".join(line for line in lines if "hpo env" not in line)
    ask = code["How to ask it"].replace(str(PORT), port)
    log = tmp_path / "serve.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            ["sh", "-c", serve], cwd=tmp_path, env=env, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    ping = ["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/ping"]
    try:
        wait_for(lambda: not subprocess.run(ping, check=False, env=env).returncode, log.read_text())
        answer = json.loads(ran("sh", "-c", ask))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    assert list(answer) == ["predictions"]
    assert all(box["image"] == 0 for box in answer["predictions"])
