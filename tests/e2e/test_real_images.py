"""Whole studies on real images, minutes each: `make test-real`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.command_line import Project

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not SHARED.is_dir(), reason="the images lie beside the project, not in it"),
]


def test_blood_cells_are_learned_from_scratch(project: Project) -> None:
    """6 trials of 8 epochs at 160 px on two Ray workers: a champion above mAP50 0.2."""
    # A copy: Ultralytics keeps its label caches beside the labels
    cells = Path(shutil.copytree(SHARED / "bccd", project.folder / "bccd"))
    project.run(
        "create-study", "--name", "cells", "--data", str(cells / "data.yaml"),
        "--trials", "6", "--epochs", "8", "--set", "train.imgsz=160",
    )  # fmt: skip
    project.run("launch", "--workers", "2", timeout_s=1500)
    status = project.json("status")
    print(status["best"], status["counts"])
    assert (status["state"], status["budget"]["claimed"]) == ("finished", 6)
    assert status["champion"]["trial"] == status["best"]["number"]
    assert status["best"]["value"] > 0.2
    assert project.json("mirror", "verify")["differences"] == []


def test_the_tiny_person_set_goes_the_whole_way(project: Project) -> None:
    """COCO128's persons, 2 trials of 2 epochs at 320 px: only the path means something."""
    made = project.run("data", "tiny-person", "--source", str(SHARED / "coco128"), "-o", "persons")
    assert "40 train, 10 val, 10 test" in made
    project.run(
        "create-study", "--name", "persons", "--data", "persons/data.yaml", "--trials", "2",
        "--epochs", "2", "--set", "train.imgsz=320", "--set", "pruner=none",
        "--set", "promotion.min_value=-1",  # it learns nothing in two epochs
    )  # fmt: skip
    project.run("launch", "--workers", "2", timeout_s=900)
    status = project.json("status")
    assert (status["state"], status["counts"]["complete"]) == ("finished", 2)
    assert status["champion"]["model"] == "persons"
    assert project.json("mirror", "verify")["differences"] == []
