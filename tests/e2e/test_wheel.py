"""The built wheel holds all that the checkout has, and works where there is no checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from support.sources import PACKAGES, ROOT

STUDY = """
study: from-the-wheel
trainer: simulated
search_space: simulated
objective: {metric: mAP50, direction: maximize}
budget: {trials: 2, epochs: 2}
train: {epoch_s: 0.01}
promotion: {model: from-the-wheel}
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in an environment without the developer's settings; its stdout."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HPO_", "MLFLOW_", "RAY_", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
    run(*build, "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that has the wheel, and this one's dependencies."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install",
        "--no-deps", "--no-index", "--disable-pip-version-check", wheel, cwd=place,
    )  # fmt: skip
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                    cwd=place).strip())  # fmt: skip
    # A folder named in a .pth file is not searched for further .pth files: the dependencies are
    # found, the editable install of the checkout is not.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return place / "bin"


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    """Search spaces, SQL, migrations, templates and the shipped model code are not left behind."""
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    kinds = {Path(name).suffix for name in sources}
    assert {".py", ".sql", ".yaml", ".html", ".md", ".css"} <= kinds
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.split("/")[0] in PACKAGES}
    assert packed == sources


def test_it_names_the_command_the_trainers_and_the_licence(wheel: Path) -> None:
    """What makes `hpo` a command and finds the trainers stands in its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        parser = ConfigParser()
        parser.read_string(archive.read(entry_points).decode())
    assert parser["console_scripts"]["hpo"] == "hpo.cli.main:main"
    assert set(parser["hpo.trainers"]) == {"yolo", "simulated"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == set(PACKAGES)


def test_it_is_imported_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    """The checkout plays no part in the tests below."""
    program = "import hpo, search_spaces, workers as w; print(hpo.__file__, w.__file__, sep='\\n')"
    for file in run(installed / "python", "-c", program, cwd=tmp_path).split():
        assert Path(file).is_relative_to(installed.parent)


def test_it_has_its_search_spaces(installed: Path, tmp_path: Path) -> None:
    """`hpo space list` names the built-in ones outside the checkout."""
    listed = json.loads(run(installed / "hpo", "space", "list", "--json", cwd=tmp_path))
    names = {space["name"] for space in listed}
    assert names == {path.stem for path in (ROOT / "search_spaces" / "spaces").glob("*.yaml")}


def test_a_study_runs_from_it(installed: Path, tmp_path: Path) -> None:
    """Template, migrations, queries and trainers are all found there."""
    hpo = installed / "hpo"
    run(hpo, "init", cwd=tmp_path)
    (tmp_path / "simulated.yaml").write_text(STUDY)
    try:
        run(hpo, "create-study", "simulated.yaml", cwd=tmp_path)
        run(hpo, "worker", "--n-trials", "1", cwd=tmp_path)
        document = json.loads(run(hpo, "status", "--json", cwd=tmp_path))
        assert document["budget"]["claimed"] == 1
        assert document["counts"]["complete"] == 1
    finally:
        run(hpo, "down", cwd=tmp_path)
