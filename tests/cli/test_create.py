"""`hpo init`, and how `hpo create-study` reads its command line; no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from hpo.cli.create import _from_here, _overrides, init
from hpo.errors import UsageError
from hpo.studies.study_file import TEMPLATE, read_study_file

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.studies.spec import StudySpec


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    clean_env.chdir(tmp_path)
    return tmp_path


def run_init(*arguments: str) -> str:
    result = CliRunner().invoke(init, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def read(path: Path) -> StudySpec:
    return read_study_file(path, {}, home=path.parent / ".hpo")


def test_init_writes_the_built_in_study_with_its_comments(folder: Path) -> None:
    """The file is found by `create-study`, is valid, and makes this folder the project."""
    assert run_init() == "Wrote hpo.yaml. Edit it, then: hpo create-study\n"
    assert (folder / "hpo.yaml").read_text() == TEMPLATE.read_text()
    assert read(folder / "hpo.yaml") == read_study_file(None, {}, home=folder / ".hpo")
    assert sorted(path.name for path in folder.iterdir()) == [".hpo", "hpo.yaml"]


@pytest.mark.parametrize("name", ["cells", "blood cells", "123", "on", "a #b", "1e-3", "é", "'x'"])
def test_init_gives_study_and_model_their_name(folder: Path, name: str) -> None:
    """Also one that YAML would read as something else."""
    run_init(name)
    spec = read(folder / "hpo.yaml")
    assert (spec.study, spec.promotion.model) == (name, name)


def test_init_says_how_to_go_on_from_another_file(folder: Path) -> None:
    """The next command names the file, and the project is the current folder."""
    (folder / "studies").mkdir()
    said = run_init("-o", "studies/a.yaml")
    assert said == "Wrote studies/a.yaml. Edit it, then: hpo create-study studies/a.yaml\n"
    assert (folder / ".hpo").is_dir()
    assert [path.name for path in (folder / "studies").iterdir()] == ["a.yaml"]


def test_init_names_the_model_and_explains_the_rules(folder: Path) -> None:
    """The rules of a promotion stand in the file, with the word that turns it off."""
    run_init("cells")
    text = (folder / "hpo.yaml").read_text()
    assert "`promotion: none` promotes nothing" in text
    for rule in ("finalists", "seeds", "full_epochs", "confidence", "min_gain", "max_class_loss"):
        assert f"{rule}: " in text


def test_init_keeps_a_file_that_exists(folder: Path) -> None:
    """Nothing is overwritten."""
    (folder / "hpo.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"hpo\.yaml exists"):
        CliRunner().invoke(init, catch_exceptions=False)
    assert (folder / "hpo.yaml").read_text() == "mine"


def test_settings_are_nested_by_their_dots() -> None:
    """--set takes YAML values, the scientific notation of everywhere included."""
    given = ("train.lr0=1e-3", "train.imgsz=160", "data=x=y", "baselines=[{}]", "model=")
    assert _overrides(given) == {
        "train": {"lr0": 0.001, "imgsz": 160}, "data": "x=y", "baselines": [{}], "model": None,
    }  # fmt: skip


def test_data_on_the_command_line_is_taken_from_here(folder: Path) -> None:
    """A path means from the current folder; a built-in name is one beside a folder of that name."""
    (folder / "shapes").mkdir()
    (folder / "mine").mkdir()
    assert _from_here("shapes") == "shapes"
    assert _from_here("./shapes") == str(folder / "shapes")
    assert _from_here("mine") == str(folder / "mine")
    assert _from_here("a.yaml") == str(folder / "a.yaml")
    assert _from_here("shape") == "shape", "a typing error stays one, to be answered by its nearest"
