"""The finalizer on a real PostgreSQL and a real MLflow database."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from support.promotion import PromotionBench, promotions

from hpo.claims.claims import End
from hpo.errors import TrackingError, WeightsError
from hpo.promotion.decision import Outcome
from hpo.promotion.finalizer import finalize
from hpo.storage.postgres.engine import Database, make_engine
from hpo.tracking.registry import Registry
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from hpo.promotion.decision import Decision
    from hpo.studies.store import Study

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def bench(promotion_bench: PromotionBench) -> PromotionBench:
    """On the test's own database, and on the shared MLflow."""
    return promotion_bench


def test_the_best_trial_becomes_the_champion_with_everything_that_explains_it(
    bench: PromotionBench,
) -> None:
    """Version, alias, tags, description, decision.md in the trial's run, one row."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    decision = bench.finalize(study)
    assert (decision.outcome, decision.trial, decision.version) == (Outcome.PROMOTED, 1, 1)
    version = bench.client.get_model_version_by_alias(bench.model, "champion")
    assert (version.tags["hpo.trial"], version.tags["hpo.value"]) == ("1", "0.6")
    assert version.tags["hpo.weights_sha256"] == decision.evidence.weights_sha256
    assert (version.tags["simulated"], version.tags["hpo.study"]) == ("true", study.name)
    assert version.description.startswith("SIMULATED")
    run = bench.client.get_run(version.run_id)
    assert (run.data.tags["hpo.trial"], run.data.tags["hpo.study"]) == ("1", study.name)
    (row,) = promotions(bench.engine)
    assert (row.outcome, row.trial_number, row.version) == ("promoted", 1, 1)
    assert row.evidence["run_id"] == version.run_id


def test_the_record_says_what_why_and_how_to_undo_it(bench: PromotionBench) -> None:
    """Among the artifacts of the version's run, for people and for pipelines."""
    study = bench.study(baselines=({"x": 0.2, "y": 0.1, "kind": "a"},))
    bench.told(study, 0.25, 0.5)
    decision = bench.finalize(study)
    run_id = str(decision.evidence.run_id)
    names = ("decision.md", "decision.html", "metadata.json", "metrics.json")
    texts = Registry(bench.client).read_texts(run_id, names)
    assert set(texts) == set(names)
    for document in (texts["decision.md"], texts["decision.html"]):
        assert "SIMULATED" in document
        assert run_id in document
        assert "hpo rollback" in document
        assert f"models:/{bench.model}@champion" in document
    metadata = json.loads(texts["metadata.json"])
    assert metadata["model_uri"] == f"models:/{bench.model}/1"
    assert metadata["decision"] == str(promotions(bench.engine)[0].promotion_id)
    assert json.loads(texts["metrics.json"])["test_mAP50"] == decision.evidence.test_value


def test_a_second_call_returns_the_recorded_decision_and_writes_nothing(
    bench: PromotionBench,
) -> None:
    """Also after someone moved the alias back: an undone promotion stays undone."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    first = bench.finalize(study)
    bench.client.delete_registered_model_alias(bench.model, "champion")
    again = bench.finalize(study)
    assert (again.already, again.version, again.outcome) == (True, first.version, first.outcome)
    assert (bench.versions(), bench.champion(), len(promotions(bench.engine))) == ([1], None, 1)


def at_once(bench: PromotionBench, studies: list[Study]) -> list[Decision]:
    """Each finalized at the same moment, on a database pool of its own, as by workers."""
    url = bench.engine.url.render_as_string(hide_password=False)
    start, decisions, errors = threading.Barrier(len(studies)), [], []

    def one(number: int, study: Study) -> None:
        database = Database(make_engine(url))
        try:
            with TrainingProcess("simulated", bench.folder / f"logs-{number}") as process:
                start.wait()
                decisions.append(finalize(database, bench.settings, study, process))
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            errors.append(error)
        finally:
            database.dispose()

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(studies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return decisions


def test_four_at_once_make_one_version_one_alias_and_one_row(bench: PromotionBench) -> None:
    """Each on a database pool of its own, as four workers are."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    bench.finals(study)
    decisions = at_once(bench, [study] * 4)
    assert [decision.version for decision in decisions] == [1, 1, 1, 1]
    assert sorted(decision.already for decision in decisions) == [False, True, True, True]
    assert (bench.versions(), bench.champion(), len(promotions(bench.engine))) == ([1], 1, 1)


def test_two_studies_of_one_model_are_decided_one_after_the_other(bench: PromotionBench) -> None:
    """Whoever comes first: the better one is champion in the end, and each is on record once."""
    worse, better = bench.study("worse"), bench.study("better", seed=1)
    for study, value in ((worse, 0.4), (better, 0.8)):
        bench.told(study, 0.3, value)
        bench.finals(study)
    at_once(bench, [worse, better])
    rows = promotions(bench.engine)
    assert sorted(row.study_name for row in rows) == sorted([worse.name, better.name])
    if rows[0].study_name == worse.name:
        assert [(row.outcome, row.version, row.previous_version) for row in rows] == [
            ("promoted", 1, None), ("promoted", 2, 1),
        ]  # fmt: skip
    else:
        assert [(row.outcome, row.version, row.previous_version) for row in rows] == [
            ("promoted", 1, None), ("kept", 1, 1),
        ]  # fmt: skip
    champion = bench.client.get_model_version_by_alias(bench.model, "champion")
    assert champion.tags["hpo.study"] == better.name


HOLDER = """
import sys, time
from hpo.storage.postgres.engine import Database, make_engine
from hpo.promotion.lock import promotion_lock

with promotion_lock(Database(make_engine(sys.argv[1])), sys.argv[2], lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_promoter_holds_nobody_up(bench: PromotionBench) -> None:
    """The next one waits while it lives, says so, and goes on when it is gone."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    url = bench.engine.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, bench.model], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        said: list[str] = []

        def hear(text: str) -> None:
            said.append(text)
            holder.kill()

        assert bench.finalize(study, progress=hear).version == 1
    assert "another promotion" in said[0]


def test_weights_altered_since_the_finals_are_refused_and_nothing_is_half_promoted(
    bench: PromotionBench,
) -> None:
    """No version, no alias, no row; mended, the same call goes through."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    bench.finals(study)
    with bench.engine.connect() as connection:
        sha256 = connection.execute(
            text("select a.sha256 from hpo.artifact a join trials t using (trial_id) "
                 "where t.number = 1 and t.study_id = :study and a.name like 'weights/%'"),
            {"study": study.study_id},
        ).scalar_one()  # fmt: skip
    file = bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    with pytest.raises(WeightsError, match="altered"):
        bench.decide(study)
    assert (bench.versions(), promotions(bench.engine)) == ([], [])
    file.write_bytes(content)
    assert bench.decide(study).version == 1


def test_a_value_typed_into_the_dashboard_is_never_promoted(bench: PromotionBench) -> None:
    """A trial that optuna itself completed does not compete, however high its value."""
    import optuna

    study = bench.study(trials=3)
    teller = bench.told(study, 0.3)
    running = teller.claim()
    storage = optuna.storages.RDBStorage(bench.engine.url.render_as_string(hide_password=False))
    try:
        storage.set_trial_state_values(
            running.trial_id, optuna.trial.TrialState.COMPLETE, values=[0.99]
        )
    finally:
        storage.engine.dispose()
    teller.tell(0.2)
    decision = bench.finalize(study)
    assert (decision.trial, decision.evidence.value) == (0, 0.3)


def test_pruned_and_failed_trials_never_compete_and_the_reason_is_said_once(
    bench: PromotionBench,
) -> None:
    """A study without a complete trial promotes nothing, and records that once."""
    study = bench.study()
    teller = bench.told(study)
    teller.tell(0.9, End.PRUNED)
    teller.tell(0.9, End.FAIL)
    for _ in range(2):
        decision = bench.finalize(study)
        assert decision.outcome is Outcome.NONE
        assert "1 pruned, 1 failed" in decision.sentence()
    (row,) = promotions(bench.engine)
    assert (row.outcome, row.trial_number, row.version) == ("none", None, None)


def test_an_unfinished_study_promotes_only_when_asked_by_hand(bench: PromotionBench) -> None:
    """A worker is told why not; by hand it goes by what is complete and stays open."""
    study = bench.study(trials=3)
    teller = bench.told(study, 0.3)
    assert "1 of 3 trials" in bench.decide(study).reason
    running = teller.claim()
    assert "still run" in bench.decide(study).reason
    assert promotions(bench.engine) == []
    assert bench.finalize(study, open_ok=True).version == 1
    assert teller.claims.renew(running).value == "go"


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(bench: PromotionBench) -> None:
    """Neither version nor row, and the sentence says so."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    decision = bench.decide(study, dry_run=True)
    assert "0 of 2 finals are over" in decision.reason
    decision = bench.finalize(study, dry_run=True)
    assert "would promote trial 1" in decision.sentence()
    assert (bench.versions(), promotions(bench.engine)) == ([], [])


def test_with_mlflow_away_nothing_is_recorded_and_a_later_call_completes(
    bench: PromotionBench,
) -> None:
    """The error is TrackingError, exit code 3."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    bench.finals(study)
    away = replace(bench.settings, tracking_uri="http://127.0.0.1:9")
    with pytest.raises(TrackingError):
        finalize(bench.database, away, study, bench.runtime)
    assert promotions(bench.engine) == []
    assert bench.finalize(study).version == 1
