"""`create_study`: the use case of `hpo create-study`, as Python calls it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from hpo.errors import DatabaseError, SpecError, StudyExistsError
from hpo.studies import model_file
from hpo.studies.create import create_study
from hpo.studies.store import load_study
from workers.simulated.trainer import SimulatedTrainer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings

STUDY = {
    "study": "s",
    "trainer": "simulated",
    "search_space": "simulated",
    "budget": {"trials": 6, "epochs": 9},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study file."""
    path = tmp_path / "hpo.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def test_create_study_stores_what_its_file_says(
    settings: Settings, file: Path, engine: Engine
) -> None:
    """With what was given beside it; an equal one is taken as it is where that is wished."""
    overrides = {"budget": {"trials": 4}}
    made = create_study(settings, file, overrides)
    assert (made.created, made.simulated) == (True, True)
    assert made.study == load_study(engine, "s")
    assert (made.study.trials, made.study.spec.budget.epochs) == (4, 9)
    with pytest.raises(StudyExistsError, match="'s' exists"):
        create_study(settings, file, overrides)
    again = create_study(settings, file, overrides, exist_ok=True)
    assert again == replace(made, created=False)
    assert again.to_json() == made.to_json() | {"created": False}


def test_create_study_opens_no_database_for_a_wrong_file(settings: Settings, file: Path) -> None:
    """What is wrong with the file comes first, and nothing is made."""
    nowhere = replace(settings, storage="postgresql://me@127.0.0.1:1/none")
    with pytest.raises(SpecError, match=r"budget\.trials: is 0"):
        create_study(nowhere, file, {"budget": {"trials": 0}})
    assert not settings.home.exists()
    with pytest.raises(DatabaseError):
        create_study(nowhere, file)


class Starter(SimulatedTrainer):
    """Starts from a file that lies beside the study's."""

    def start_file(self, model: str) -> Path | None:
        return Path(model)

    def prepare(self, model: str) -> Path:
        return Path(model)


def test_create_study_pins_the_model_file(
    settings: Settings, file: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer has it ready here, unless another way is given; that it is loaded is told."""
    del engine
    monkeypatch.setattr(model_file, "load_trainer", {"simulated": Starter()}.__getitem__)
    weights, elsewhere = file.with_name("mine.pt"), file.with_name("other.pt")
    weights.write_bytes(b"good")
    elsewhere.write_bytes(b"better")
    told: list[tuple[str, int, int]] = []
    made = create_study(
        settings, file, {"model": str(weights)},
        on_progress=lambda *what: told.append(what),
    )  # fmt: skip
    assert made.study.model_sha256 == hashlib.sha256(b"good").hexdigest()
    assert told == [(f"loading {weights} once, to see that trainings can start from it", 0, 0)]
    asked: list[tuple[str, str, Path]] = []

    def prepare(trainer: str, model: str, logs: Path) -> Path:
        asked.append((trainer, model, logs))
        return elsewhere

    other = create_study(settings, file, {"study": "t", "model": str(weights)}, prepare=prepare)
    assert other.study.model_sha256 == hashlib.sha256(b"better").hexdigest()
    assert asked == [("simulated", str(weights), settings.home / "logs")]
