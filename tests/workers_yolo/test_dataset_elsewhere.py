"""A real training on a machine that has neither dataset nor weights, out of S3; minutes."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from support.command_line import Project
from support.stores import shapes

if TYPE_CHECKING:
    from pathlib import Path

    from support.s3_server import S3Server

pytestmark = pytest.mark.cluster


def test_two_projects_share_a_study_and_no_folder(
    tmp_path: Path, database_url: str, s3_server: S3Server, mlflow_url: str
) -> None:
    """Created and pushed in one project; two workers of another fetch it once and train.

    The weights that the trainings start from come along with the study.
    """
    from ultralytics import YOLO

    here, there = tmp_path / "here", tmp_path / "there"
    projects = []
    for folder in (here, there):
        folder.mkdir()
        one = Project(folder)
        one.env |= s3_server.environment | {
            "HPO_STORAGE": database_url,
            "HPO_ARTIFACTS": f"s3://{s3_server.bucket}/lab",
            "MLFLOW_TRACKING_URI": mlflow_url,
        }
        projects.append(one)
    first, second = projects
    data = shapes(here / "set", imgsz=64, train=12, val=6, test=20)
    spec = {
        "study": "away", "trainer": "yolo", "model": "mine.pt", "data": str(data),
        "search_space": "yolov8n-quick", "budget": {"trials": 2, "epochs": 1},
        "sampler": {"name": "random"}, "pruner": {"name": "none"},
        "train": {"imgsz": 64, "batch": 8, "optimizer": "AdamW", "close_mosaic": 0},
        "promotion": {"model": "away", "finalists": 1, "seeds": 1, "min_value": -1},
    }  # fmt: skip
    (here / "hpo.yaml").write_text(json.dumps(spec))
    YOLO("yolov8n.yaml", verbose=False).save(here / "mine.pt")
    first.run("create-study")
    (here / "mine.pt").unlink()
    (there / ".hpo").mkdir()
    shutil.move(here / "set", tmp_path / "aside")
    told = second.start("worker", "--study", "away")
    assert told.wait(120) == 2
    assert "hpo data push --study away" in second.logs()
    shutil.move(tmp_path / "aside", here / "set")
    pushed = first.json("data", "push", "--study", "away")
    shutil.rmtree(here / "set")
    workers = [second.start("worker", "--study", "away") for _ in range(2)]
    assert [worker.wait(300) for worker in workers] == [0, 0], second.logs()
    assert second.logs().count("fetching the dataset") == 1
    status = second.json("status", "--study", "away")
    assert status["counts"]["complete"] == 2, second.logs()
    decision = second.json("champion", "--study", "away")
    assert decision["trial"] in (0, 1), second.logs()
    copy = there / ".hpo/cache/datasets" / pushed["fingerprint"]
    assert (copy / "data.yaml").is_file()
    (listed,) = second.json("data", "list")
    assert (listed["studies"], listed["cached"]) == (["away"], True)
