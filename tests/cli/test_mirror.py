"""`hpo mirror sync` and `hpo mirror verify`, as a user runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from support.backups import worker_on
from support.command_line import PREFIXES, in_process
from support.studies import evaluated, with_finals

from hpo.storage.artifacts.opening import open_store

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from support.studies import Bench

    Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(bench: Bench) -> Run:
    """Run `hpo ARGUMENTS` on the bench's database."""
    settings = bench.settings
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
    env = inherited | {
        "HPO_STORAGE": str(settings.storage),
        "HPO_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": str(settings.tracking_uri),
    }

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return in_process(bench.folder, env | more, *arguments)

    return call


def test_sync_catches_up_and_verify_proves_it(bench: Bench, run: Run) -> None:
    """`verify` lists what is missing and exits 1; after sync it exits 0 and counts the runs."""
    bench.trial(0.1, 0.2)
    bench.trial(0.3)
    before = run("mirror", "verify")
    assert (before.returncode, "trial-0001: run: " in before.stdout) == (1, True), before
    copied = run("mirror", "sync")
    assert copied.returncode == 0, copied
    assert copied.stdout == f"{bench.study.name}: 2 trials copied, 0 behind\n"
    after = run("mirror", "verify")
    assert (after.returncode, after.stdout) == (0, f"{bench.study.name}: 3 runs equal\n"), after


def test_json_is_one_document_and_nothing_else(bench: Bench, run: Run) -> None:
    """Both commands print one JSON document on stdout."""
    bench.trial(0.1)
    expected = {"study": bench.study.name, "copied": 1, "rebuilt": 0, "behind": 0, "errors": []}
    assert json.loads(run("mirror", "sync", "--json").stdout) == expected | {"mended": 0}
    bench.client().set_tag(bench.run(0).info.run_id, "hpo.state", "FAIL")
    done = run("mirror", "verify", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["equal"], document["runs"]) == (False, 2)
    difference = {
        "where": "trial-0000", "what": "tag hpo.state",
        "expected": "'COMPLETE'", "found": "'FAIL'",
    }  # fmt: skip
    assert document["differences"] == [difference]


@pytest.mark.faults
def test_finals_are_covered_by_their_studys_name(bench: Bench, run: Run) -> None:
    """Copied and compared with it; by their own name they alone are mended."""
    bench.trial(0.1)
    bench.trial(0.2)
    finals = with_finals(bench.engine, bench.study, 1, 0)
    claims = worker_on(bench.engine, finals)
    for value in (0.5, 0.25):
        evaluated(claims, open_store(bench.settings), bench.folder, value)
    name = bench.study.name
    copied = run("mirror", "sync", "--study", name)
    assert copied.stdout == f"{name}: 4 trials copied, 0 behind\n", copied
    [final] = [one for one in bench.runs() if one.info.run_name == "final-0001"]
    bench.client().log_metric(final.info.run_id, "test/mAP50", 0.9, step=0)
    done = run("mirror", "verify", "--study", name)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "final-0001: metric test/mAP50, step 0: 0.4375 expected, 0.9 in MLflow",
        f"{name}: 1 difference in 6 runs",
    ]
    mended = run("mirror", "sync", "--study", finals.name).stdout
    assert "0 trials copied, 1 altered tags and figures mended, 0 behind" in mended


@pytest.mark.faults
def test_sync_mends_what_was_altered_in_mlflow(bench: Bench, run: Run) -> None:
    """A figure, a point too many and a tag changed by hand are as PostgreSQL has them again."""
    bench.trial(0.1, 0.2)
    assert run("mirror", "sync").returncode == 0
    client, run_id = bench.client(), bench.run(0).info.run_id
    client.log_metric(run_id, "mAP50", 0.9, step=1)
    client.log_metric(run_id, "mAP50", 0.9, step=7)
    client.set_tag(run_id, "hpo.state", "FAIL")
    assert run("mirror", "verify").returncode == 1
    mended = run("mirror", "sync")
    assert mended.returncode == 0, mended
    assert "3 altered tags and figures mended" in mended.stdout
    assert run("mirror", "verify").returncode == 0
    assert "0 trials copied, 0 behind" in run("mirror", "sync").stdout


@pytest.mark.faults
def test_sync_says_what_only_a_new_run_mends(bench: Bench, run: Run) -> None:
    """A parameter cannot be taken back in MLflow: exit 1, what to do, and that it works."""
    bench.trial(0.1)
    assert run("mirror", "sync").returncode == 0
    bench.client().log_param(bench.run(0).info.run_id, "stranger", "1")
    done = run("mirror", "sync")
    assert done.returncode == 1
    assert "stranger" in done.stderr
    assert "Delete these runs" in done.stderr
    bench.client().delete_run(bench.run(0).info.run_id)
    assert run("mirror", "sync").returncode == 0
    assert run("mirror", "verify").returncode == 0


@pytest.mark.parametrize("command", ["sync", "verify"])
def test_an_mlflow_that_is_away_exits_3(run: Run, command: str) -> None:
    """One message that names the address, with what to do, and no traceback."""
    done = run("mirror", command, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (3, "")
    assert "MLflow at http://127.0.0.1:9 cannot be used: Connection refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plain_optuna_study_can_be_named(run: Run, bench: Bench, database_url: str) -> None:
    """--study takes a study that only Optuna knows."""
    name = f"plain-{bench.study.name}"
    study = optuna.create_study(study_name=name, storage=database_url)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert run("mirror", "sync", "--study", name).returncode == 0
    done = run("mirror", "verify", "--study", name)
    assert (done.returncode, done.stdout) == (0, f"{name}: 3 runs equal\n"), done


def test_what_could_not_be_copied_is_listed(bench: Bench, run: Run) -> None:
    """A trial whose file is gone makes sync exit 1 with the reason; the others are copied."""
    bench.trial(0.1)
    for content in (Path(bench.settings.artifacts) / "objects").glob("*/*"):
        content.unlink()
    bench.trial(0.2)
    done = run("mirror", "sync")
    assert (done.returncode, "1 trial copied, 1 behind" in done.stdout) == (1, True), done
    assert "is not in" in done.stderr
