"""What can be done with a decision: commands, model card, and files for pipelines."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support import exhibits

from hpo.promotion.report.files import metadata, metrics, write_files
from hpo.promotion.report.render import as_markdown, model_card
from hpo.promotion.report.usage import steps

if TYPE_CHECKING:
    from pathlib import Path

every_kind = pytest.mark.parametrize("kind", exhibits.KINDS)


@every_kind
def test_every_command_can_be_copied(kind: str) -> None:
    """Python compiles, the shell parses it, and a model's name stays one word."""
    exhibit = exhibits.KINDS[kind]()
    name = "my model's"
    found = steps(replace(exhibit, decision=replace(exhibit.decision, model=name)))
    assert found
    for step in found:
        if step.language == "python":
            compile(step.code, step.title, "exec")
            assert json.dumps(f"models:/{name}@champion") in step.code
        elif step.language == "sh":
            subprocess.run(["sh", "-n", "-c", step.code], check=True)
            words = [word for line in step.code.splitlines() if "hpo " in line or "mlflow " in line
                     for word in shlex.split(line)]  # fmt: skip
            assert "promote" in words or "env)" in step.code or "/invocations" in step.code or (
                name in words
            )  # fmt: skip


def test_undoing_says_where_the_alias_goes() -> None:
    """Back to a version, to nothing, or nowhere."""
    assert "hpo rollback --model ships --why" in as_markdown(exhibits.exhibit())
    assert "goes back to version 3" in as_markdown(exhibits.exhibit())
    assert "the alias is removed" in as_markdown(exhibits.first_champion())
    kept = as_markdown(exhibits.exhibit("kept"))
    assert "there is nothing to undo" in kept
    assert "hpo promote 7 --study harbour --why" in kept
    assert "hpo rollback --model ships --to 4 --why" in as_markdown(exhibits.rolled_back())
    other = exhibits.exhibit(alias="live")
    assert "hpo rollback --model ships --alias live --why" in as_markdown(other)


def test_the_card_says_what_the_figures_do_not() -> None:
    """Few images, few boxes of a class, other places, the licence; no path of a machine."""
    card = model_card(exhibits.exhibit())
    assert "40 test images are few: with others like them mAP50 0.7131" in card
    assert "fewer than 20 true boxes in the test split: truck (19)" in card
    assert "on none from elsewhere" in card
    assert "AGPL-3.0-or-later. The weights were trained with Ultralytics" in card
    assert 'model = YOLO(folder / "artifacts" / "best.pt")' in card
    assert "scaled to 320 px" in card
    assert "dataset: harbour/data.yaml" in card
    assert "/data/" not in card
    assert "promoted it past the gate: it is «needed» (ann@lab)" in model_card(
        exhibits.overridden()
    )


def test_the_card_says_how_to_load_the_version() -> None:
    """Also where its number is not known yet: a card is part of what gets the number."""
    known = model_card(exhibits.exhibit())
    assert 'load_model("models:/ships/4")' in known
    unmade = replace(exhibits.exhibit().decision, version=None)
    card = model_card(replace(exhibits.exhibit(), decision=unmade))
    assert 'load_model("models:/ships@champion")' in card
    assert "later with its number, models:/ships/NUMBER" in card
    assert "MLflow starts `uvicorn` by its name" in card


def test_what_is_simulated_is_marked_everywhere() -> None:
    """And is neither a detector nor under Ultralytics' licence."""
    exhibit, found = exhibits.simulated(), exhibits.written("simulated")
    for content in (found["decision.md"], found["decision.html"], model_card(exhibit)):
        assert "SIMULATED" in content
    assert json.loads(found["metadata.json"])["simulated"] is True
    assert "AGPL" not in model_card(exhibit)
    assert "An object detector" not in model_card(exhibit)


def test_metadata_is_of_one_model() -> None:
    """Version and URI are the trial's own; the champion stands apart, whatever was decided."""
    promoted = metadata(exhibits.exhibit().decision, decision_id="id")
    assert promoted["model_uri"] == "models:/ships/4"
    assert (promoted["version"], promoted["trial"], promoted["promoted"]) == (4, 7, True)
    assert (promoted["run_id"], promoted["decision"]) == ("0123456789abcdef0123456789abcdef", "id")
    assert promoted["weights"] == {"name": "weights/best.pt", "sha256": "c" * 64}
    assert promoted["champion"] == {"version": 4, "model_uri": "models:/ships/4"}
    for outcome in ("kept", "inconclusive"):
        kept = metadata(exhibits.exhibit(outcome).decision)
        assert (kept["version"], kept["model_uri"], kept["promoted"]) == (None, None, False)
        assert kept["champion"] == {"version": 3, "model_uri": "models:/ships/3"}
    nothing = metadata(exhibits.nothing().decision)
    assert nothing["champion"] == {"version": None, "model_uri": None}


def test_names_and_fingerprints_are_of_one_model() -> None:
    """A trial that was not promoted is no version; the champion is told as one."""
    kept, promoted = exhibits.written("kept"), exhibits.written("promoted")
    assert "| version |" not in kept["decision.md"]
    assert "| champion after | version 3 |" in kept["decision.md"]
    assert "| version | 4 |" in promoted["decision.md"]


@every_kind
def test_metrics_are_flat_finite_numbers(kind: str) -> None:
    """As `dvc metrics` wants them; what does not exist is left out."""
    found = metrics(exhibits.KINDS[kind]().decision)
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in found.values())
    if kind == "promoted":
        assert found["test_mAP50"] == found["test_value"] == 0.7131
        assert (found["gain"], found["gain_low"]) == (0.0613, pytest.approx(0.0273))
        assert found["gain_luck"] == 0.021
        assert found["class_ship_AP50"] == pytest.approx(0.6331)
        assert found["previous_mAP50"] == found["previous_value"] == pytest.approx(0.6518)
        assert (found["value"], found["seeds"]) == (0.7103, 2)
        assert found["weights_value"] == pytest.approx(0.7223)
        assert found["latency_ms_median"] == 23.41


def test_files_are_whole_or_as_they_were(tmp_path: Path) -> None:
    """Where one cannot be written, metadata.json still speaks of the decision before."""
    first = exhibits.written("kept")
    assert [path.name for path in write_files(tmp_path, first)][-1] == "metadata.json"
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "metrics.json").mkdir()  # where a file cannot go
    with pytest.raises(OSError, match=r"metrics\.json"):
        write_files(tmp_path, exhibits.written("promoted"))
    assert (tmp_path / "metadata.json").read_text(encoding="utf-8") == first["metadata.json"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"decision.md", "decision.html", "metadata.json", "metrics.json"}
