"""`hpo export` and `hpo import`, as a user runs them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from support.backups import NAME, rich_study, worker_on
from support.command_line import PREFIXES, in_process
from support.studies import claimed, simulated_study, with_finals

from hpo.claims.claims import LeaseStatus
from hpo.storage.artifacts.folder import FolderStore
from hpo.studies.backup.file import read
from hpo.studies.store import load_study
from hpo.trainer import Epoch

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.settings import Settings

    Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(settings: Settings, empty_database_url: str, tmp_path: Path) -> Run:
    """Run `hpo ARGUMENTS`; `there=True` on another machine, whose database is still empty."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}

    def call(
        *arguments: str, there: bool = False, stdin: str = "", code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        env = {
            "HPO_STORAGE": empty_database_url if there else str(settings.storage),
            "HPO_HOME": str(tmp_path / "there" if there else settings.home),
        }
        done = in_process(tmp_path, inherited | env, *arguments, stdin=stdin)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr, done
        return done

    return call


@pytest.fixture
def rich(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """A study that has everything, on this machine."""
    rich_study(engine, FolderStore(settings.home / "artifacts"), tmp_path / "work")


def equal_views(run: Run, *command: str) -> None:
    """The command says the same on both machines, but for who works on it now."""
    here, there = (json.loads(run(*command, "--json", there=side).stdout) for side in (False, True))
    for document in (here, there):
        if command[0] == "status":
            document |= {"workers": [], "eta_s": None}
    assert here == there


@pytest.mark.usefixtures("rich")
def test_a_study_moves_to_an_empty_machine(run: Run, tmp_path: Path) -> None:
    """The database is made there; every reading command says the same, and so does an export."""
    said = run("export", "study.json.gz").stdout
    assert said.startswith("Wrote study.json.gz, ")
    assert "'Größe 数 ✓', 3 complete, 1 failed, 1 pruned, 1 running, 1 waiting of 9 trials" in said
    assert f"4 files of weights and pictures, 48 bytes, in {tmp_path}/.hpo/artifacts" in said
    assert "4 files of checkpoints" in said

    said = run("import", "study.json.gz", there=True).stdout
    assert "it is stopped" in said
    assert f"are looked for in {tmp_path}/there/artifacts; they were in {tmp_path}/.hpo" in said
    assert "1 trial that ran will be taken over: 0 checkpoints of them found here, 2 not" in said
    for command in (("trials",), ("show", "0"), ("list",), ("status",)):
        equal_views(run, *command)
    run("export", "again.json", there=True)
    assert read(tmp_path / "again.json").content == read(tmp_path / "study.json.gz").content


@pytest.mark.usefixtures("rich")
def test_json_is_one_document_and_nothing_else(run: Run, tmp_path: Path) -> None:
    """Both commands tell what is in the file, and where the files are that are not."""
    made = json.loads(run("export", "study.json", "--json").stdout)
    trials = {"complete": 3, "failed": 1, "pruned": 1, "running": 1, "waiting": 1}
    common: dict[str, Any] = {"study": NAME, "trials": trials, "budget": 9, "promotions": 1}
    assert made | common == made
    assert made["file"] == "study.json"
    assert made["bytes"] == (tmp_path / "study.json").stat().st_size
    assert made["checkpoints"]["files"] == 4
    renamed = run("import", "study.json", "--name", "first", there=True).stdout
    assert f"1 decision about '{NAME}' left out" in renamed
    found = json.loads(run("import", "study.json", "--json", "--name", "new", there=True).stdout)
    assert found | common | {"study": "new", "promotions": 0, "of": NAME} == found
    assert found["checkpoints"] == {"found": 0, "lost": 2}


@pytest.mark.usefixtures("rich")
def test_a_study_goes_through_a_pipe(run: Run) -> None:
    """`-` is stdout and stdin; what is said to people goes to stderr."""
    done = run("export", "-")
    assert json.loads(done.stdout)["format"] == "hpo-study"
    assert done.stderr.startswith("Wrote stdout, ")
    run("import", "-", there=True, stdin=done.stdout)
    assert (
        run("export", "-", there=True).stdout.partition('"made"')[0]
        == (done.stdout.partition('"made"')[0])
    )
    run("export", "-", "--json", code=2)


@pytest.mark.usefixtures("rich")
def test_finals_move_with_their_study(run: Run, engine: Engine) -> None:
    """Both commands say so; the study is listed there with its finals."""
    with_finals(engine, load_study(engine, NAME), 0, 1)
    assert "18 epochs, finals: 2 waiting, 1 decision" in run("export", "study.json").stdout
    document = json.loads(run("import", "study.json", "--json", there=True).stdout)
    assert document["finals"] == {"waiting": 2}
    assert f"  {NAME}/finals" in run("list", there=True).stdout
    assert "holds finals" in run("export", "f", "--study", f"{NAME}/finals", code=2).stderr


@pytest.mark.usefixtures("rich")
def test_a_wrong_file_or_name_changes_nothing(run: Run, tmp_path: Path) -> None:
    """Each is told in words with what mends it, and nothing is made on the new machine."""
    run("export", "study.json")
    text = (tmp_path / "study.json").read_text(encoding="utf-8")
    (tmp_path / "cut.json").write_text(text[:-1000], encoding="utf-8")
    (tmp_path / "altered.json").write_text(text.replace('"pid":7', '"pid":8'), encoding="utf-8")
    (tmp_path / "newer.json").write_text(text.replace('"version": 3', '"version": 4'))
    for file, code, why in (
        ("cut.json", 2, "is no export of a study"),
        ("altered.json", 2, "was altered"),
        ("newer.json", 1, "has version 4"),
        ("none.json", 2, "does not exist"),
    ):
        said = run("import", file, there=True, code=code).stderr
        assert f"{file} {why}" in said
        assert len(said.splitlines()) == 2, said
    assert "--name" in run("import", "study.json", "--name", "a/b", there=True, code=2).stderr
    assert not (tmp_path / "there").exists()

    said = run("import", "study.json", code=2).stderr
    assert f"a study '{NAME}' exists" in said
    assert "`hpo import FILE --name NEW`" in said
    said = run("export", "study.json", code=2).stderr
    assert "study.json exists" in said
    assert "--force" in said
    run("export", "study.json", "--force")
    assert (tmp_path / "study.json").read_text(encoding="utf-8") == text


def test_a_running_worker_notices_no_export(run: Run, engine: Engine) -> None:
    """It holds its lease before and after, and goes on."""
    study = simulated_study(engine, study="running")
    claims = worker_on(engine, study)
    claim = claimed(claims)
    run("export", "running.json")
    assert claims.report(claim, Epoch(1, {"mAP50": 0.5})) is LeaseStatus.GO
    run("import", "running.json", "--name", "copy")
    assert claims.report(claim, Epoch(2, {"mAP50": 0.6})) is LeaseStatus.GO
