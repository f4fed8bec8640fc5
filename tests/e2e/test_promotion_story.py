"""A champion, a challenger that must lose, one that must win, and the way back: real trainings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import project_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.command_line import Project

pytestmark = [pytest.mark.promotion, pytest.mark.timeout(1200)]

MODEL = "shapes"
# Epochs of the only trial of each study: what decides how good its detector can be
EPOCHS = {"first": 5, "worse": 1, "better": 16}
MORE = {"better": ("--set", "promotion.onnx=true")}


def run_study(project: Project, name: str) -> dict[str, Any]:
    """Create a study of one trial, run it to its end, and what the worker says at its end."""
    project.run(
        "create-study", "--name", name, "--data", "shapes/data.yaml", "--trials", "1",
        "--epochs", str(EPOCHS[name]), "--set", "train.imgsz=128", "--set", "train.batch=16",
        "--set", "pruner=none", "--set", f"promotion.model={MODEL}",
        "--set", "baselines=[{lr0: 0.005}]", *MORE.get(name, ()),
    )  # fmt: skip
    document: dict[str, Any] = project.json("worker", "--study", name, timeout_s=900)
    return document


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Three studies of the same model, one after the other."""
    with project_in(tmp_path_factory.mktemp("story")) as project:
        project.run("data", "shapes", "-o", "shapes")
        for name in EPOCHS:
            run_study(project, name)
        yield project


def history(project: Project) -> list[dict[str, Any]]:
    """Every decision about the model, the earliest first."""
    rows: list[dict[str, Any]] = project.json("champion", "--model", MODEL, "--history")
    return sorted(rows, key=lambda row: row["seq"])


def test_the_second_study_loses_and_the_third_wins(story: Project) -> None:
    """The short training does not take the place, the long one does; each with its reasons."""
    first, worse, better = history(story)[:3]
    assert (first["study"], first["outcome"], first["version"]) == ("first", "promoted", 1)
    assert (worse["study"], worse["version"]) == ("worse", 1)
    assert worse["outcome"] in ("kept", "inconclusive")
    assert (better["study"], better["outcome"], better["version"]) == ("better", "promoted", 2)
    assert better["previous_version"] == 1
    decision = story.json("finalize", "--study", "better")
    difference = decision["evidence"]["difference"]
    assert 0 < difference["low"] < difference["value"] < difference["high"]
    assert all(rule["met"] for rule in decision["evidence"]["rules"])
    assert decision["already"]


def test_pipelines_find_the_decision_as_files(story: Project) -> None:
    """metadata.json and metrics.json beside the record for people."""
    story.run("finalize", "--study", "better", "--out", "decision")
    folder = story.folder / "decision"
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["model_uri"] == f"models:/{MODEL}/2"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test_mAP50"] == pytest.approx(metadata["figures"]["test_value"])
    page = (folder / "decision.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert (folder / "decision.md").read_text().startswith("# ")


def test_the_way_back_is_one_command_and_is_recorded(story: Project) -> None:
    """A worker that comes by does not undo a rollback; an override does."""
    back = story.json("rollback", "--model", MODEL, "--why", "it misses small circles")
    assert (back["version"], back["previous_version"]) == (1, 2)
    assert story.json("champion", "--model", MODEL)["version"] == 1
    run_again = story.json("worker", "--study", "better")
    assert run_again["why"] == "finished"
    assert story.json("champion", "--model", MODEL)["version"] == 1
    promoted = story.json("promote", "0", "--study", "better", "--why", "mended by hand")
    assert (promoted["outcome"], promoted["version"], promoted["override"]) == (
        "promoted", 2, True,
    )  # fmt: skip
    last = history(story)[-1]
    assert (last["override"], last["why"]) == (True, "mended by hand")
    assert story.json("champion", "--model", MODEL)["difference"] == ""


def test_the_version_holds_weights_card_and_a_checked_onnx_export(story: Project) -> None:
    """Beside the pyfunc, where the study asked for it; the version before has none."""
    models = story.folder / ".hpo" / "artifacts" / "mlflow" / "models"
    folders = [card.parent for card in models.rglob("README.md")]
    assert len(folders) == 2
    assert all((folder / "artifacts" / "best.pt").is_file() for folder in folders)
    (exported,) = models.rglob("model.onnx")
    assert f"# {MODEL}" in (exported.parent.parent / "README.md").read_text()


def test_mlflow_equals_postgresql_finals_included(story: Project) -> None:
    """Every figure of every trial and every final is in MLflow."""
    for name in EPOCHS:
        assert story.json("mirror", "verify", "--study", name)["differences"] == []


def test_the_champion_predicts(story: Project) -> None:
    """`hpo predict` finds shapes on a test image and draws them."""
    image = next((story.folder / "shapes" / "images" / "test").iterdir())
    found = story.json("predict", MODEL, str(image), "--save", "-o", "drawn")
    assert found
    assert list((story.folder / "drawn").iterdir())
