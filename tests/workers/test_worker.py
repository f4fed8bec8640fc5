"""Workers with the simulated trainer on real PostgreSQL and MLflow: limits, takeovers, leaving."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sqlalchemy import text
from support.studies import other_claims, rows, simulated_spec, simulated_study
from support.training import make_images

from hpo.claims.claims import Claim, End
from hpo.datasets.fingerprint import fingerprint
from hpo.errors import MismatchError, RepeatedFailureError, UsageError
from hpo.studies.preflight import require_matching_environment
from hpo.studies.spec import Choice, Objective
from hpo.studies.store import delete_study, set_state, store_study
from search_spaces.reader import load_space
from workers.events import Event, Kind
from workers.study_loop import Limits, WorkerSummary
from workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study


def work(settings: Settings, study: Study, **limits: Any) -> WorkerSummary:
    return Worker(settings, study.name, limits=Limits(**limits), device="cpu").run()


def work_and(
    settings: Settings, study: Study, act: Callable[[Worker], None], epoch: int = 1
) -> tuple[WorkerSummary, list[Event]]:
    """Run a worker; do `act` when its first trial reports this epoch."""
    events: list[Event] = []

    def watch(event: Event) -> None:
        events.append(event)
        done = [one for one in events if one.kind is Kind.EPOCH and one.epoch == epoch]
        if event.kind is Kind.EPOCH and done == [event]:
            act(worker)

    worker = Worker(settings, study.name, device="cpu", watch=watch, limits=Limits(wait=False))
    return worker.run(), events


# Limits


def test_a_worker_leaves_at_its_limit_with_everything_stored(
    here: Settings, engine: Engine
) -> None:
    """It ends exactly so many trials, keeps their files and leaves no run folder behind."""
    study = simulated_study(engine, study="limited", trials=5)
    summary = work(here, study, n_trials=2)
    assert (summary.why, summary.ended) == ("limit", {End.COMPLETE: 2})
    assert [row.state for row in rows(engine, study)] == ["complete", "complete"]
    assert list((here.home / "runs").glob("worker-*")) == []
    with engine.connect() as connection:
        files = connection.execute(text("select trial_id, name, sha256 from hpo.artifact")).all()
        left = connection.execute(text("select ended_why from hpo.worker")).scalars().all()
    assert [row.name for row in files].count("weights/weights.json") == 2
    assert all(
        (Path(here.artifacts) / "objects" / row.sha256[:2] / row.sha256).is_file() for row in files
    )
    assert left == ["limit"]


def test_a_worker_claims_nothing_after_its_time(here: Settings, engine: Engine) -> None:
    """`--timeout` counts from its start; what runs is not cut off."""
    study = simulated_study(engine, study="timed", trials=5)
    assert work(here, study, timeout_s=1e-6).why == "timeout"
    assert rows(engine, study) == []


def test_with_everything_claimed_a_worker_need_not_wait(here: Settings, engine: Engine) -> None:
    """`--no-wait` leaves while another worker still runs the last trial."""
    study = simulated_study(engine, study="claimed", trials=1)
    assert isinstance(other_claims(engine, study).claim(), Claim)
    summary = work(here, study, wait=False)
    assert (summary.why, summary.count) == ("all claimed", 0)


def test_a_worker_needs_the_projects_folder(settings: Settings, engine: Engine) -> None:
    """Started in a wrong place it says so and makes no folder."""
    study = simulated_study(engine, study="homeless")
    with pytest.raises(UsageError, match="there is no folder"):
        work(settings, study)
    assert not settings.home.exists()


# Failures


def test_trials_that_diverge_alike_stop_no_worker(here: Settings, engine: Engine) -> None:
    """A loss that is NaN is the affair of its parameters, whatever the one before did."""
    study = simulated_study(engine, trials=5, train={"epoch_s": 0.01, "nan_at": 2})
    assert work(here, study).ended == {End.FAIL: 5}


def test_three_equal_failures_stop_the_worker_and_keep_the_budget(
    here: Settings, engine: Engine
) -> None:
    """The error is said, three trials are spent, seven are kept for the mended run."""
    study = simulated_study(engine, study="failing", trials=10, train={"fail_at": 2})
    with pytest.raises(RepeatedFailureError, match="told to fail at epoch 2") as caught:
        work(here, study)
    assert caught.value.exit_code == 1
    found = rows(engine, study)
    assert [row.state for row in found] == ["failed"] * 3
    assert all("told to fail at epoch 2" in (row.reason or "") for row in found)
    assert all(row.value is None for row in found)


def test_a_crash_of_the_training_is_one_failed_trial(here: Settings, engine: Engine) -> None:
    """A segfault ends the training process, not the worker: it goes on with the next trial."""
    study = simulated_study(engine, study="crashing", trials=10, train={"crash_at": 1})
    summary = work(here, study, n_trials=2)
    assert (summary.why, summary.ended) == ("limit", {End.FAIL: 2})
    assert all((row.reason or "").startswith("crashed: ") for row in rows(engine, study))


def test_a_loss_that_is_nan_is_a_diverged_trial(here: Settings, engine: Engine) -> None:
    """FAIL with the reason; the epochs before it stay recorded."""
    study = simulated_study(engine, study="diverging", trials=10, train={"nan_at": 2})
    work(here, study, n_trials=1)
    (row,) = rows(engine, study)
    assert (row.state, row.epochs) == ("failed", 1)
    assert (row.reason or "").startswith("diverged: ")


# Another hand


def test_a_drained_worker_gives_its_trial_back(here: Settings, engine: Engine) -> None:
    """At the end of the epoch it leaves, and another worker gets the trial at once."""
    study = simulated_study(engine, study="drained", trials=3, epochs=5)
    summary, events = work_and(here, study, lambda worker: worker.drain())
    assert (summary.why, summary.count) == ("drained", 0)
    assert [event.text for event in events if event.kind is Kind.ENDED] == ["given back"]
    taken = other_claims(engine, study).claim()
    assert isinstance(taken, Claim)
    assert (taken.number, taken.takeovers) == (0, 1)


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_a_trial_in_its_last_epoch_is_finished(here: Settings, engine: Engine, how: str) -> None:
    """Neither leaving nor `hpo stop` throws a whole trial away at its very end."""
    study = simulated_study(engine, study=f"last-{how}", trials=3, epochs=2)

    def act(worker: Worker) -> None:
        if how == "drain":
            worker.drain()
        else:
            set_state(engine, study, "stopped")

    summary, _ = work_and(here, study, act, epoch=2)
    assert summary.ended == {End.COMPLETE: 1}
    assert rows(engine, study)[0].state == "complete"


def test_a_stopped_study_is_left_and_goes_on_where_it_stood(here: Settings, engine: Engine) -> None:
    """The worker hears of it at its next epoch; after `resume` the same trial is run to its end."""
    study = simulated_study(engine, study="stopped", trials=1, epochs=4)
    summary, _ = work_and(here, study, lambda _: set_state(engine, study, "stopped"))
    assert (summary.why, summary.count) == ("stopped", 0)
    set_state(engine, study, "open")
    assert work(here, study, n_trials=1).ended == {End.COMPLETE: 1}
    (row,) = rows(engine, study)
    assert (row.state, row.epochs, row.takeovers) == ("complete", 4, 1)


@pytest.mark.parametrize("hand", ["ours", "optuna's"])
def test_a_study_deleted_under_a_worker_ends_it_in_order(
    here: Settings, engine: Engine, database_url: str, hand: str
) -> None:
    """It says that the study was deleted; nothing is raised, no row is left."""
    study = simulated_study(engine, study=f"deleted-{hand[0]}", trials=3, epochs=40)
    storage = optuna.storages.RDBStorage(database_url)  # takes a second where the machine is busy

    def delete(worker: Worker) -> None:
        del worker
        if hand == "ours":
            delete_study(engine, study)
        else:
            optuna.delete_study(study_name=study.name, storage=storage)

    summary, events = work_and(here, study, delete)
    assert (summary.why, summary.count) == ("deleted", 0)
    assert [event.text for event in events if event.kind is Kind.ENDED] == ["lost"]


def test_takeovers_and_lost_leases_are_logged_with_action_and_ids(
    here: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that reads the log needs no text to know which worker had which trial."""
    study = simulated_study(engine, study="logged", trials=1, epochs=40)
    work_and(here, study, lambda worker: worker.drain())
    caplog.set_level(logging.INFO, "workers")
    work_and(here, study, lambda _: delete_study(engine, study), epoch=2)
    found = {
        record["action"]: (record["study"], record["trial"], record["worker"])
        for record in map(vars, caplog.records)
        if "action" in record
    }
    *known, worker = found["trial_taken_over"]
    assert (known, type(worker)) == ([study.name, 0], int)
    assert found["lease_lost"] == (study.name, 0, worker)


def test_a_trial_ended_in_the_dashboard_is_left_for_the_next(
    here: Settings, engine: Engine, database_url: str
) -> None:
    """The worker does not come down; the typed value is nobody's best."""
    study = simulated_study(engine, study="typed", trials=2, epochs=4)
    plain = optuna.load_study(study_name=study.name, storage=database_url)
    summary, _ = work_and(here, study, lambda _: plain.tell(0, 0.99))
    assert summary.ended == {End.COMPLETE: 1}
    first, second = rows(engine, study)
    assert first.value is None
    assert second.value is not None


# Code and data


def test_another_version_of_the_code_is_refused(here: Settings, engine: Engine) -> None:
    """It says which version made the study and which is here, and claims nothing."""
    study, _ = store_study(engine, simulated_spec(), fingerprint=None, code_version="simulated 0")
    with pytest.raises(MismatchError, match="created with simulated 0, here is simulated 1"):
        work(here, study)
    assert rows(engine, study) == []


def test_an_altered_spec_is_refused(here: Settings, engine: Engine) -> None:
    """What is stored must be what was checked."""
    study = simulated_study(engine, study="altered")
    with engine.begin() as connection:
        connection.execute(text("update hpo.study set spec = jsonb_set(spec, '{seed}', '7')"))
    with pytest.raises(MismatchError, match="the stored spec of 'altered' has the sha256"):
        work(here, study)


def test_other_data_is_refused(here: Settings, engine: Engine, tmp_path: Path) -> None:
    """A changed label or a missing dataset is said before anything is trained."""
    from workers.yolo.arguments import code_version

    data = make_images(tmp_path / "set", count=4)
    spec = simulated_spec(
        study="pictures", trainer="yolo", model="yolov8n.yaml", data=str(data),
        space=load_space("yolov8n-quick"), objective=Objective("mAP50", "maximize"), train={},
        sampler=Choice("random", {}),
    )  # fmt: skip
    mark = fingerprint(data, home=here.home)
    study, _ = store_study(engine, spec, fingerprint=mark, code_version=code_version())
    assert require_matching_environment(study, here, engine) == data
    label = next((tmp_path / "set" / "labels" / "val").iterdir())
    label.write_text("0 0.5 0.5 0.25 0.25\n")
    with pytest.raises(MismatchError, match="was created with " + mark[:12]):
        require_matching_environment(study, here, engine)
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(MismatchError, match="needs the dataset"):
        require_matching_environment(study, here, engine)
