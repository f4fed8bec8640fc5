"""`hpo finalize` killed at every step of its way, then run again: everything once in the end."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from support.command_line import HPO, PREFIXES, wait_for
from support.promotion import PromotionBench, promotions

from hpo.promotion.decision import Outcome
from hpo.tracking.registry import Registry

if TYPE_CHECKING:
    from hpo.studies.store import Study

PLANTED = Path(__file__).resolve().parents[1] / "faults" / "planted"
MLFLOW = "mlflow.tracking.client:MlflowClient"

# Whatever is written, in order. After one step is before the next.
STEPS = {
    "nothing yet": "hpo.promotion.candidates:ranked_candidates:before:1",
    "weighed": "hpo.promotion.gate:compare:after:1",
    "weights fetched": "hpo.promotion.challenge:ChampionChallenge._weights:after:1",
    "run ensured": "hpo.promotion.registration:trial_run_id:after:1",
    "logged model made": f"{MLFLOW}.create_logged_model:after:1",
    "files uploaded": f"{MLFLOW}.log_model_artifacts:after:1",
    "logged model ready": f"{MLFLOW}.finalize_logged_model:after:1",
    "registered model made": f"{MLFLOW}.create_registered_model:before:1",
    "version created": f"{MLFLOW}.create_model_version:after:1",
    "decision.md stored": "hpo.tracking.registry:Registry.log_text:after:1",
    "all files stored": "hpo.tracking.registry:Registry.log_text:after:4",
    "move noted": "hpo.promotion.alias:_point:before:1",
    "alias moved": f"{MLFLOW}.set_registered_model_alias:after:1",
    "previous moved": f"{MLFLOW}.set_registered_model_alias:after:2",
    "row inserted": "hpo.promotion.ledger:write:after:1",
    "committed": "hpo.promotion.finalizer:finalize:after:1",
}


@pytest.fixture
def bench(promotion_bench: PromotionBench) -> PromotionBench:
    """On the test's own database, and on the shared MLflow reached directly."""
    return promotion_bench


def start(bench: PromotionBench, study: Study, fault: str) -> subprocess.Popen[str]:
    """`hpo finalize` with a planted fault."""
    settings = bench.settings
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
    env = inherited | {
        "HPO_STORAGE": str(settings.storage),
        "HPO_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": str(settings.tracking_uri),
        "PYTHONPATH": str(PLANTED),
        "HPO_TEST_KILL": fault,
        "HPO_TEST_MARK": str(bench.folder / "mark"),
    }
    return subprocess.Popen(
        [HPO, "finalize", "--study", study.name], env=env, cwd=bench.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def killed(bench: PromotionBench, process: subprocess.Popen[str], fault: str) -> None:
    """See that it died, at the step meant."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, said
    assert (bench.folder / "mark").read_text() == f"{fault}\n"


def two_studies(bench: PromotionBench) -> Study:
    """A model with a champion, and a study whose best trial is better."""
    bench.settings.home.mkdir(exist_ok=True)
    older, study = bench.study("older"), bench.study()
    bench.told(older, 0.1, 0.2)
    assert bench.finalize(older).version == 1
    bench.told(study, 0.3, 0.6)
    bench.finals(study)
    return study


def once(bench: PromotionBench, study: Study) -> None:
    """One version, its aliases, one row, one logged model and one run for the decision."""
    assert (bench.versions(), bench.champion()) == ([1, 2], 2)
    assert Registry(bench.client).aliases(bench.model) == {"champion": 2, "previous": 1}
    rows = [row for row in promotions(bench.engine) if row.study_name == study.name]
    (row,) = rows
    assert (row.outcome, row.version, row.previous_version) == ("promoted", 2, 1)
    client = bench.client
    version = client.get_model_version(bench.model, "2")
    assert version.tags["hpo.decision"] == str(row.promotion_id)
    assert version.run_id == row.evidence["run_id"]
    experiment = client.get_experiment_by_name(study.name).experiment_id
    assert len(client.search_logged_models([experiment])) == 1
    trials = [
        run.data.tags["hpo.trial"] for run in client.search_runs([experiment])
        if "hpo.trial" in run.data.tags and run.data.tags["hpo.study"] == study.name
    ]  # fmt: skip
    assert trials.count("1") == 1
    stored = {one.path for one in client.list_artifacts(version.run_id)}
    assert {"decision.md", "decision.html", "metadata.json", "metrics.json"} <= stored


@pytest.mark.faults
@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_killed_at_a_step_is_made_once_in_the_end(
    bench: PromotionBench, step: str
) -> None:
    """SIGKILL right there, then the same command again: the decision is the same, and single."""
    study, fault = two_studies(bench), STEPS[step]
    killed(bench, start(bench, study, fault), fault)
    decision = bench.finalize(study, open_ok=True)
    assert (decision.outcome, decision.trial, decision.version) == (Outcome.PROMOTED, 1, 2)
    assert decision.evidence.champion is not None
    assert (decision.previous_version, decision.evidence.champion.version) == (1, 1)
    once(bench, study)


@pytest.mark.faults
def test_a_promotion_killed_again_and_again_is_made_once_in_the_end(bench: PromotionBench) -> None:
    """One process after the other dies, each a step further."""
    study = two_studies(bench)
    for step in ("logged model made", "logged model ready", "move noted", "row inserted"):
        killed(bench, start(bench, study, STEPS[step]), STEPS[step])
        (bench.folder / "mark").unlink()
    assert bench.finalize(study, open_ok=True).version == 2
    once(bench, study)


def test_who_waits_for_a_promoter_that_is_killed_completes_its_promotion(
    bench: PromotionBench,
) -> None:
    """Two at once: the one that waited finds a version without alias, and goes on from there."""
    study, fault = two_studies(bench), STEPS["version created"]
    first = start(bench, study, fault)
    held = text("select count(*) from pg_locks l join pg_database d on d.oid = l.database "
                "where l.locktype = 'advisory' and d.datname = current_database()")  # fmt: skip

    def is_held() -> bool:
        with bench.engine.connect() as connection:
            return bool(connection.scalar(held))

    wait_for(is_held, "the first one holds the lock")
    assert bench.finalize(study, open_ok=True).version == 2
    killed(bench, first, fault)
    once(bench, study)
