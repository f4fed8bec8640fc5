"""Whether this machine has a study's data and test split, at their path or fetched."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.stores import elsewhere, pushed_set
from support.studies import simulated_spec

from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.generated import make_shapes
from hpo.datasets.held_out import held_out, simulated_fingerprint
from hpo.errors import MismatchError, WeightsError
from hpo.settings import Settings
from hpo.storage.artifacts.opening import open_store
from hpo.studies.preflight import data_here, require_matching_environment, require_test_split
from hpo.studies.store import Study
from hpo.trainer import load_trainer

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine


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
        study_id=1,
        uid=uuid.uuid4(),
        name=spec.study,
        spec=spec,
        spec_sha256=spec.sha256(),
        fingerprint=None,
        code_version="simulated 1",
        trials=6,
        state="open",
        test_fingerprint=test_fingerprint,
    )


def test_a_split_as_it_was_is_given(settings: Settings, data: Path, engine: Engine) -> None:
    """With the dataset's place on this machine; a study of an earlier version recorded none."""
    now = held_out(data, home=settings.home).fingerprint
    for recorded in (now, None):
        found = require_test_split(study(recorded, data=str(data)), settings, engine)
        assert found == (data, now)


def test_a_changed_split_is_told_with_both_fingerprints(
    settings: Settings, data: Path, engine: Engine
) -> None:
    """Nobody is judged on other images than the study was promised."""
    before = held_out(data, home=settings.home).fingerprint
    (data.parent / "labels/test/00000.txt").write_text("0 .5 .5 .2 .2\n")
    now = held_out(data, home=settings.home).fingerprint
    with pytest.raises(MismatchError, match="the test split changed since the study began") as why:
        require_test_split(study(before, data=str(data)), settings, engine)
    assert before[:12] in str(why.value)
    assert now[:12] in str(why.value)
    assert "Restore the test split" in why.value.hint


def test_a_split_that_cannot_judge_any_more_is_told_with_the_mend(
    settings: Settings, data: Path, engine: Engine
) -> None:
    """Gone, or seen by the trials since: for a study of an earlier version, too."""
    shutil.copyfile(data.parent / "images/test/00000.bmp", data.parent / "images/train/new.bmp")
    with pytest.raises(MismatchError, match="1 of 1 images is in train, too") as why:
        require_test_split(study(None, data=str(data)), settings, engine)
    assert "hpo data split" in why.value.hint
    shutil.rmtree(data.parent)
    with pytest.raises(MismatchError, match="no such file"):
        require_test_split(study(None, data=str(data)), settings, engine)


def test_a_trainer_without_data_has_a_split_of_its_code(settings: Settings, engine: Engine) -> None:
    """So the gate works there as well, and other code is another split."""
    version = load_trainer("simulated").describe().code_version
    mark = simulated_fingerprint(version)
    for recorded in (mark, None):
        assert require_test_split(study(recorded), settings, engine) == (None, mark)
    with pytest.raises(MismatchError, match="the test split changed"):
        require_test_split(study(simulated_fingerprint("simulated 0")), settings, engine)


@pytest.fixture
def project(settings: Settings, tmp_path: Path) -> Settings:
    """The same, with an artifact store."""
    settings.home.mkdir()
    open_store(settings).require_writable()
    return replace(settings, artifacts=str(tmp_path / ".hpo/artifacts"))


def on(data: Path, settings: Settings) -> Study:
    """A study that was created on this data."""
    mark = fingerprint(data, home=settings.home)
    held = held_out(data, home=settings.home).fingerprint
    return replace(study(held, data=str(data)), fingerprint=mark)


def test_a_pushed_copy_takes_the_place_of_what_is_not_here(
    project: Settings, data: Path, engine: Engine, tmp_path: Path
) -> None:
    """Gone or altered, for training, for judging, for pictures and for packaging."""
    one = on(data, project)
    pushed_set(project, engine, data)
    there = elsewhere(project, tmp_path / "there")
    assert require_matching_environment(one, there, engine) == data
    assert not there.dataset_cache.exists()
    (data.parent / "labels/train/00000.txt").write_text("0 .5 .5 .2 .2\n")
    (data.parent / "labels/test/00000.txt").write_text("0 .5 .5 .2 .2\n")
    copy = there.dataset_cache / str(one.fingerprint) / "data.yaml"
    with pytest.raises(MismatchError, match="the test split changed"):
        require_test_split(one, there, engine, fetch=False)
    said: list[str] = []
    assert require_test_split(one, there, engine, say=said.append)[0] == copy
    assert len(said) == 1
    assert require_matching_environment(one, there, engine) == copy
    shutil.rmtree(data.parent)
    assert require_matching_environment(one, there, engine) == copy
    assert require_test_split(one, there, engine, fetch=False)[0] == copy
    assert data_here(one, there) == copy


def test_who_trains_nothing_fetches_nothing(
    project: Settings, data: Path, engine: Engine, tmp_path: Path
) -> None:
    """It is enough for `hpo launch` that the dataset was pushed; its workers fetch it."""
    one = on(data, project)
    there = elsewhere(project, tmp_path / "there")
    pushed_set(project, engine, data)
    shutil.rmtree(data.parent)
    assert require_matching_environment(one, there, engine, fetch=False) is None
    assert data_here(one, there) is None
    assert not there.dataset_cache.exists()


def test_what_nobody_pushed_is_told_with_the_command(
    project: Settings, data: Path, engine: Engine
) -> None:
    """To be run where the dataset is."""
    one = on(data, project)
    shutil.rmtree(data.parent)
    for fetch in (True, False):
        with pytest.raises(MismatchError, match="was not pushed") as why:
            require_matching_environment(one, project, engine, fetch=fetch)
        assert f"hpo data push --study {one.name}" in why.value.hint
        assert why.value.exit_code == 2


def test_what_differs_is_no_wrong_input(project: Settings, data: Path, engine: Engine) -> None:
    """The dataset is here, and another than the study's: exit code 1."""
    one = on(data, project)
    (data.parent / "labels/train/00000.txt").write_text("0 .5 .5 .2 .2\n")
    with pytest.raises(MismatchError, match="has the fingerprint") as why:
        require_matching_environment(one, project, engine)
    assert why.value.exit_code == 1


def test_a_pushed_copy_that_the_store_lost_is_told(
    project: Settings, data: Path, engine: Engine
) -> None:
    """With what was recorded, and the command that mends it."""
    one = on(data, project)
    sha256 = pushed_set(project, engine, data).sha256
    next((project.home / "artifacts").rglob(sha256)).unlink()
    shutil.rmtree(data.parent)
    with pytest.raises(WeightsError, match="was pushed, and cannot be fetched") as why:
        require_matching_environment(one, project, engine)
    assert f"hpo data push --again --study {one.name}" in why.value.hint
