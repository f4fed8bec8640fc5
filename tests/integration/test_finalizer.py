"""The finalizer on a real PostgreSQL and a real MLflow database."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import pytest
from fixtures.told import PromotionBench, Teller, promotions

from hpo.claims import End
from hpo.database.engine import make_engine
from hpo.errors import TrackingError, WeightsError
from hpo.promotion.decision import Outcome
from hpo.promotion.finalizer import finalize
from hpo.spec import Objective
from hpo.study import extend, load_study
from workers.process import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from hpo.settings import Settings

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingProcess]:
    """The real training process of the simulated trainer."""
    with TrainingProcess("simulated", tmp_path_factory.mktemp("workshop")) as process:
        yield process


@pytest.fixture
def bench(
    engine: Engine, mirror_settings: Settings, workshop: TrainingProcess, tmp_path: Path
) -> PromotionBench:
    """A bench on the test's own database, and on the shared MLflow."""
    return PromotionBench(engine, mirror_settings, workshop, tmp_path)


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


def test_a_better_champion_on_the_same_data_stays_and_the_record_says_so(
    bench: PromotionBench,
) -> None:
    """A second study on the same model is weighed; the alias does not move."""
    first, second = bench.study("first"), bench.study("second")
    bench.told(first, 0.4, 0.6)
    bench.told(second, 0.5, 0.6)  # a tie is not better
    bench.finalize(first)
    decision = bench.finalize(second)
    assert (decision.outcome, decision.version) == (Outcome.KEPT, 1)
    assert "not better than the 0.6000" in decision.reason
    assert (bench.versions(), bench.champion()) == ([1], 1)
    row = promotions(bench.engine)[1]
    assert (row.outcome, row.version, row.previous_version) == ("kept", 1, 1)
    assert "decision.md" in {
        item.path for item in bench.client.list_artifacts(row.evidence["run_id"])
    }
    assert bench.finalize(second).already
    assert len(promotions(bench.engine)) == 2


def test_a_better_trial_of_another_study_takes_the_place(bench: PromotionBench) -> None:
    """Two studies share a model: two versions, the alias at the better, the other remembered."""
    first, second = bench.study("first"), bench.study("second")
    bench.told(first, 0.4, 0.6)
    bench.told(second, 0.5, 0.7)
    bench.finalize(first)
    decision = bench.finalize(second)
    assert (decision.outcome, decision.version, decision.previous_version) == (
        Outcome.PROMOTED, 2, 1,
    )  # fmt: skip
    assert (bench.versions(), bench.champion()) == ([1, 2], 2)


def test_after_extend_a_better_trial_is_a_new_decision(bench: PromotionBench) -> None:
    """It is weighed against the study's own earlier champion."""
    study = bench.study()
    teller = bench.told(study, 0.3, 0.6)
    bench.finalize(study)
    extend(bench.engine, study, 3)
    teller.tell(0.8)
    decision = bench.finalize(load_study(bench.engine, study.name))
    assert (decision.outcome, decision.trial, decision.version) == (Outcome.PROMOTED, 2, 2)


def test_our_record_of_the_champion_counts_more_than_its_tags(bench: PromotionBench) -> None:
    """A figure typed over the tag in MLflow decides nothing."""
    first, second = bench.study("first"), bench.study("second")
    bench.told(first, 0.4, 0.6)
    bench.told(second, 0.1, 0.5)
    bench.finalize(first)
    bench.client.set_model_version_tag(bench.model, "1", "hpo.value", "0.01")
    assert bench.finalize(second).outcome is Outcome.KEPT


def test_a_champion_of_other_data_is_evaluated_on_this_study_s(bench: PromotionBench) -> None:
    """Its weights are fetched and evaluated by the trainer, and that figure is compared."""
    first = bench.study("first", fingerprint="0" * 64)
    second = bench.study("second")
    bench.told(first, 0.98, 0.99)
    bench.told(second, 0.97, 0.95)
    bench.finalize(first)
    decision = bench.finalize(second)
    assert decision.outcome is Outcome.PROMOTED  # no simulated model evaluates above 0.9
    assert decision.evidence["champion_evaluated"]
    assert decision.evidence["champion_value"] < 0.91


@pytest.mark.parametrize("kept_in_store", [True, False])
def test_a_champion_s_weights_are_found_in_the_store_or_in_the_version(
    bench: PromotionBench, kept_in_store: bool
) -> None:
    """The version's own files stand in for a store that was emptied."""
    first = bench.study("first", fingerprint="0" * 64)
    bench.told(first, 0.3, 0.4)
    sha256 = bench.finalize(first).evidence["weights_sha256"]
    if not kept_in_store:
        (bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256).unlink()
    second = bench.study("second", seed=1)  # other weights than the first's
    bench.told(second, 0.97, 0.95)
    decision = bench.finalize(second)
    assert decision.evidence["champion_evaluated"]


def test_a_champion_that_cannot_be_evaluated_stays_until_someone_decides(
    bench: PromotionBench,
) -> None:
    """The record says how to go on; with the alias removed the same trial is promoted."""
    first = bench.study("first", fingerprint="0" * 64)
    bench.told(first, 0.3, 0.4)
    sha256 = bench.finalize(first).evidence["weights_sha256"]
    (bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256).unlink()
    source = bench.client.get_model_version(bench.model, "1").source
    for file in _folder(source).rglob("weights.json"):
        file.write_text("{}", encoding="utf-8")
    second = bench.study("second", seed=1)  # other weights than the first's
    bench.told(second, 0.97, 0.95)
    decision = bench.finalize(second)
    assert decision.outcome is Outcome.KEPT
    assert "cannot be compared" in decision.reason
    assert "another promotion.model, or remove the alias" in decision.reason
    assert bench.champion() == 1
    bench.client.delete_registered_model_alias(bench.model, "champion")
    assert bench.finalize(second).outcome is Outcome.PROMOTED
    assert bench.champion() == 2


def _folder(source: str) -> Path:
    return Path(source.removeprefix("file://"))


def test_an_alias_that_another_hand_set_is_not_moved(bench: PromotionBench) -> None:
    """A model registered without this service keeps its champion."""
    bench.client.create_registered_model(bench.model)
    bench.client.create_model_version(bench.model, source=str(bench.folder), await_creation_for=0)
    bench.client.set_registered_model_alias(bench.model, "champion", "1")
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    decision = bench.finalize(study)
    assert (decision.outcome, bench.versions(), bench.champion()) == (Outcome.KEPT, [1], 1)
    assert "another hand" in decision.reason


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


def test_a_minimized_objective_promotes_the_lowest(bench: PromotionBench) -> None:
    """Direction decides, for the candidate and against the champion."""
    low = Objective("loss", "minimize")
    first = bench.study("first", objective=low)
    second = bench.study("second", objective=low)
    for study, values in ((first, (0.5, 0.4)), (second, (0.45, 0.6))):
        teller = Teller(bench.engine, bench.settings, study, bench.folder)
        for value in values:
            teller.tell(1 - value)
    assert bench.finalize(first).trial == 1
    assert bench.finalize(second).outcome is Outcome.KEPT
