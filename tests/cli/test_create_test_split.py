"""Studies that promote need images that no trial sees, and remember which."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.command_line import Project, ask, project_in, refused

from hpo.datasets.generated import make_shapes
from hpo.datasets.held_out import held_out

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project without a study."""
    with project_in(tmp_path) as made:
        yield made


def yolo_study(project: Project, *, test: int) -> Path:
    """A study file of the trainer `yolo`, on drawn images; returns their data YAML."""
    made = make_shapes(project.folder / "set", imgsz=32, train=2, val=1, test=test)
    (project.folder / "yolo.yaml").write_text(
        "study: y\nsearch_space: yolov8n-quick\nbudget: {trials: 2, epochs: 2}\n"
        f"data: {made}\ntrain: {{imgsz: 32, optimizer: AdamW}}\n"
    )
    return made


def test_data_that_cannot_judge_makes_no_study_and_both_mends_do(project: Project) -> None:
    """No test split, or one that trials see; what the refusal proposes works as it stands."""
    data = yolo_study(project, test=0)
    good = data.read_text()
    data.write_text(good + "test: images/val\n")
    words = "data: test: 1 of 1 images is in val, too: images/val/00000.bmp"
    refused(ask(project, "create-study", "yolo.yaml"), 2, words)
    data.write_text(good)
    said = ask(project, "create-study", "yolo.yaml")
    refused(said, 2, "data: test: missing; expected images that no trial sees")
    assert not (project.folder / ".hpo").exists()
    assert f"`hpo data split {data} -o data-split.yaml`" in said.err
    assert ask(project, "data", "split", str(data), "-o", "data-split.yaml").code == 0
    made = ask(project, "create-study", "yolo.yaml", "--data", "data-split.yaml", "--json")
    assert len(bytes.fromhex(json.loads(made.out)["test_fingerprint"])) == 32
    assert "Or `promotion: none` promotes nothing" in said.err
    asked = ("--name", "none", "--set", "promotion=none", "--json")
    none = json.loads(ask(project, "create-study", "yolo.yaml", *asked).out)
    assert (none["created"], none["test_fingerprint"]) == (True, None)


def test_a_test_split_is_recorded_and_its_change_is_shown(project: Project) -> None:
    """--exist-ok goes on with a study on the same held-out images only."""
    data = yolo_study(project, test=2)
    made = json.loads(ask(project, "create-study", "yolo.yaml", "--json").out)
    before = held_out(data, home=project.folder / ".hpo").fingerprint
    assert made["test_fingerprint"] == before != made["dataset_fingerprint"]
    assert ask(project, "create-study", "yolo.yaml", "--exist-ok").code == 0
    (data.parent / "labels/test/00000.txt").write_text("0 .5 .5 .2 .2\n")
    now = held_out(data, home=project.folder / ".hpo").fingerprint
    words = f"test split's fingerprint: {before} -> {now}"
    refused(ask(project, "create-study", "yolo.yaml", "--exist-ok"), 2, words)
