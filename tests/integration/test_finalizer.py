"""The finalizer on a real PostgreSQL and a real MLflow database."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from fixtures.told import PromotionBench, promotions

from hpo.claims import End
from hpo.database.engine import make_engine
from hpo.errors import TrackingError, WeightsError
from hpo.promotion.decision import Outcome
from hpo.promotion.finalizer import finalize
from workers.process import TrainingProcess

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
    assert version.tags["hpo.weights_sha256"] == decision.evidence["weights_sha256"]
    assert (version.tags["simulated"], version.tags["hpo.study"]) == ("true", study.name)
    assert version.description.startswith("SIMULATED")
    run = bench.client.get_run(version.run_id)
    assert (run.data.tags["hpo.trial"], run.data.tags["hpo.study"]) == ("1", study.name)
    (row,) = promotions(bench.engine)
    assert (row.outcome, row.trial_number, row.version) == ("promoted", 1, 1)
    assert row.evidence["run_id"] == version.run_id


def test_decision_md_says_what_why_and_how_to_undo_it(
    bench: PromotionBench, tmp_path: Path
) -> None:
    """It is an artifact of the version's run, with the figures, the gain, the cost and the undo."""
    study = bench.study(baselines=({"x": 0.2, "y": 0.1, "kind": "a"},))
    bench.told(study, 0.25, 0.5)
    decision = bench.finalize(study)
    place = bench.client.download_artifacts(
        decision.evidence["run_id"], "decision.md", str(tmp_path)
    )
    text = Path(place).read_text(encoding="utf-8")
    assert "SIMULATED" in text
    assert "gain +0.25000" in text
    assert "| trial | state | mAP50 | best epoch | mAP50-95 | precision | recall |" in text
    assert "| 1 | complete | 0.50000 | 2 | 0.25000 |" in text
    assert "2 trials (2 complete), 6.0 s" in text
    assert f'MlflowClient().delete_registered_model_alias("{bench.model}", "champion")' in text
    assert f'load_model("models:/{bench.model}@champion")' in text
    assert decision.evidence["run_id"] in text


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


def test_four_at_once_make_one_version_one_alias_and_one_row(bench: PromotionBench) -> None:
    """Each on a database pool of its own, as four workers are."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    url = bench.engine.url.render_as_string(hide_password=False)
    start, decisions, errors = threading.Barrier(4), [], []

    def one(number: int) -> None:
        engine = make_engine(url)
        try:
            with TrainingProcess("simulated", bench.folder / f"logs-{number}") as process:
                start.wait()
                decisions.append(finalize(engine, bench.settings, study, process))
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            errors.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [decision.version for decision in decisions] == [1, 1, 1, 1]
    assert sorted(decision.already for decision in decisions) == [False, True, True, True]
    assert (bench.versions(), bench.champion(), len(promotions(bench.engine))) == ([1], 1, 1)


class Killed(BaseException):
    """Stands for the death of the process at this point."""


@pytest.mark.parametrize(
    "step",
    [
        "hpo.tracking.registry.write_model",
        "hpo.tracking.registry.Registry._logged_model",
        "hpo.tracking.registry.Registry.create",
        "hpo.tracking.registry.Registry.tag",
        "hpo.tracking.registry.Registry.move_alias",
        "hpo.tracking.registry.Registry.log_text",
        "hpo.promotion.record.insert",
    ],
    ids=["files", "uploaded", "version", "tags", "alias", "decision.md", "row"],
)
def test_whoever_is_killed_after_a_step_the_next_caller_completes(
    bench: PromotionBench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """One version, one alias, one row, with the champion before it still known."""
    older, study = bench.study("older"), bench.study()
    bench.told(older, 0.1, 0.2)
    bench.finalize(older)
    bench.told(study, 0.3, 0.6)
    with monkeypatch.context() as patch:
        real = resolve_name(step)

        def die(*values: Any, **named: Any) -> None:
            real(*values, **named)
            raise Killed

        patch.setattr(step, die)
        with pytest.raises(Killed):
            bench.finalize(study)
    assert len(promotions(bench.engine)) == 1
    decision = bench.finalize(study)
    assert (decision.outcome, decision.trial, decision.version) == (Outcome.PROMOTED, 1, 2)
    assert (decision.previous_version, decision.evidence["champion_value"]) == (1, 0.2)
    assert (bench.versions(), bench.champion(), len(promotions(bench.engine))) == ([1, 2], 2, 2)


HOLDER = """
import sys, time
from hpo.database.engine import make_engine
from hpo.promotion.lock import promotion_lock

with promotion_lock(make_engine(sys.argv[1]), sys.argv[2], lambda: None):
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


def test_altered_weights_are_refused_and_nothing_is_half_promoted(bench: PromotionBench) -> None:
    """No version, no alias, no row; mended, the same call goes through."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    with bench.engine.connect() as connection:
        sha256 = connection.exec_driver_sql(
            "select a.sha256 from hpo.artifact a join trials t using (trial_id) where t.number = 1"
        ).scalar_one()
    file = bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    with pytest.raises(WeightsError, match="altered"):
        bench.finalize(study)
    assert (bench.versions(), promotions(bench.engine)) == ([], [])
    file.write_bytes(content)
    assert bench.finalize(study).version == 1


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
    assert (decision.trial, decision.evidence["value"]) == (0, 0.3)


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
    assert "1 of 3 trials" in bench.finalize(study).reason
    running = teller.claim()
    assert "still run" in bench.finalize(study).reason
    assert promotions(bench.engine) == []
    assert bench.finalize(study, open_ok=True).version == 1
    assert teller.claims.renew(running).value == "go"


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(bench: PromotionBench) -> None:
    """Neither version nor row, and the sentence says so."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    decision = bench.finalize(study, dry_run=True)
    assert "would promote trial 1" in decision.sentence()
    assert (bench.versions(), promotions(bench.engine)) == ([], [])


def test_with_mlflow_away_nothing_is_recorded_and_a_later_call_completes(
    bench: PromotionBench,
) -> None:
    """The error is TrackingError, exit code 3."""
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    away = replace(bench.settings, tracking_uri="http://127.0.0.1:9")
    with pytest.raises(TrackingError):
        finalize(bench.engine, away, study, bench.workshop)
    assert promotions(bench.engine) == []
    assert bench.finalize(study).version == 1
