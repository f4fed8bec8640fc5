"""Whether this machine's test split is the one that a study is judged on; no database."""

from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from fixtures.studies import simulated_spec

from hpo.datasets.held_out import held_out, simulated_fingerprint
from hpo.datasets.shapes import make_shapes
from hpo.errors import MismatchError
from hpo.readiness import require_test_split
from hpo.settings import Settings
from hpo.study import Study
from hpo.trainer import load_trainer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> Settings:
    """Of a project in an empty folder."""
    clean_env.chdir(tmp_path)
    return Settings.read()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data YAML of three drawn images, one of them kept back."""
    return make_shapes(tmp_path / "set", imgsz=32, train=1, val=1, test=1)


def study(test_fingerprint: str | None, **changes: Any) -> Study:
    spec = simulated_spec(**changes)
    return Study(
        1, uuid.uuid4(), spec.study, spec, spec.sha256(), None, "simulated 1", 6, "open",
        test_fingerprint=test_fingerprint,
    )  # fmt: skip


def test_a_split_as_it_was_is_given(settings: Settings, data: Path) -> None:
    """With the dataset's place on this machine; a study of an earlier version recorded none."""
    now = held_out(data, home=settings.home).fingerprint
    for recorded in (now, None):
        found = require_test_split(study(recorded, data=str(data)), settings)
        assert found == (data, now)


def test_a_changed_split_is_told_with_both_fingerprints(settings: Settings, data: Path) -> None:
    """Nobody is judged on other images than the study was promised."""
    before = held_out(data, home=settings.home).fingerprint
    (data.parent / "labels/test/00000.txt").write_text("0 .5 .5 .2 .2\n")
    now = held_out(data, home=settings.home).fingerprint
    with pytest.raises(MismatchError, match="the test split changed since the study began") as why:
        require_test_split(study(before, data=str(data)), settings)
    assert before[:12] in str(why.value)
    assert now[:12] in str(why.value)
    assert "Restore the test split" in why.value.hint


def test_a_split_that_cannot_judge_any_more_is_told_with_the_mend(
    settings: Settings, data: Path
) -> None:
    """Gone, or seen by the trials since: for a study of an earlier version, too."""
    shutil.copyfile(data.parent / "images/test/00000.bmp", data.parent / "images/train/new.bmp")
    with pytest.raises(MismatchError, match="1 of 1 images is in train, too") as why:
        require_test_split(study(None, data=str(data)), settings)
    assert "hpo data split" in why.value.hint
    shutil.rmtree(data.parent)
    with pytest.raises(MismatchError, match="no such file"):
        require_test_split(study(None, data=str(data)), settings)


def test_a_trainer_without_data_has_a_split_of_its_code(settings: Settings) -> None:
    """So the gate works there as well, and other code is another split."""
    version = load_trainer("simulated").describe().code_version
    mark = simulated_fingerprint(version)
    for recorded in (mark, None):
        assert require_test_split(study(recorded), settings) == (None, mark)
    with pytest.raises(MismatchError, match="the test split changed"):
        require_test_split(study(simulated_fingerprint("simulated 0")), settings)
