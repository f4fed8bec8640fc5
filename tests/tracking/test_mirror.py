"""The mirror: PostgreSQL copied into a real MLflow database, and compared."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sqlalchemy import text
from support.studies import FINGERPRINT, METRICS, Bench

from hpo.claims.claims import End
from hpo.errors import TrackingError
from hpo.studies.store import delete_study, extend
from hpo.tracking.client import open_client
from hpo.tracking.verify import verify
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.tracking.mirror import Mirror


def differences(bench: Bench) -> list[str]:
    found = verify(bench.engine, bench.client(), bench.study.study_id)
    return [str(difference) for difference in found.differences]


def execute(engine: Engine, statement: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def test_what_postgresql_has_is_in_mlflow(bench: Bench) -> None:
    """Complete, pruned, failed and running trials: states, times, parameters, figures, files."""
    bench.trial(0.1, 0.5, 0.3)
    bench.trial(0.2, end=End.PRUNED)
    bench.trial(0.1, end=End.FAIL)
    claims, claim = bench.claim()
    bench.train(claims, claim, 0.4)
    mirror = bench.mirror()
    assert mirror.pending_count() == 5  # four trials and the study's own run
    result = mirror.sync_study()
    assert (result.copied, result.behind, result.errors) == (4, 0, [])
    assert differences(bench) == []
    statuses = [bench.run(number).info.status for number in range(4)]
    assert statuses == ["FINISHED", "KILLED", "FAILED", "RUNNING"]


def test_a_run_shows_its_trial(bench: Bench) -> None:
    """A reader of MLflow alone sees the parameters, tags, dataset, figures and files."""
    claim = bench.trial(0.1, 0.5, 0.3)
    bench.mirror().sync_study()
    run, client = bench.run(0), bench.client()
    assert run.info.run_name == "trial-0000"
    params = {name: str(value) for name, value in claim.params.items()}
    assert run.data.params == params | {"train/epoch_s": "0.01"}
    expected = {
        "hpo.study": bench.study.name, "hpo.trial": "0", "hpo.state": "COMPLETE",
        "hpo.spec_sha256": bench.study.spec_sha256, "hpo.dataset_fingerprint": FINGERPRINT,
        "hpo.code_version": "simulated 1", "hpo.worker_host": "host-a", "hpo.takeovers": "0",
        "hpo.value": "0.5", "hpo.best_epoch": "2", "simulated": "true", "attr.batch": "16",
    }  # fmt: skip
    assert expected.items() <= run.data.tags.items()
    assert run.inputs.dataset_inputs[0].dataset.digest == FINGERPRINT[:36]
    history = client.get_metric_history(run.info.run_id, "mAP50")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.5), (3, 0.3)]
    assert run.data.metrics["value"] == 0.5
    assert METRICS.items() <= run.data.metrics.items()
    assert [item.path for item in client.list_artifacts(run.info.run_id, "weights")] == [
        "weights/best.pt"
    ]
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["hpo.kind"] == "study"
    assert parent.data.params["sampler"] == "random"


def test_epochs_follow_one_by_one(bench: Bench) -> None:
    """Each copy of a running trial adds what is new; one that is up to date is not pending."""
    mirror = bench.mirror()
    claims, claim = bench.claim()
    for number in (1, 2, 3):
        claims.report(claim, Epoch(number, {"mAP50": number / 10}))
        assert mirror.pending_count() >= 1
        mirror.sync_pending()
        assert mirror.pending_count() == 0
        assert bench.run(0).data.metrics["mAP50"] == number / 10
    bench.tell(claims, claim)
    assert mirror.pending_count() == 1
    mirror.sync_pending()
    assert mirror.pending_count() == 0
    assert differences(bench) == []


def test_a_metric_that_does_not_exist_is_left_out(bench: Bench) -> None:
    """NaN in an epoch is no figure in MLflow, and no difference."""
    claims, claim = bench.claim()
    claims.report(claim, Epoch(1, {"mAP50": 0.1, "precision": math.nan, "odd (B)": 1.0}))
    bench.tell(claims, claim)
    bench.mirror().sync_study()
    assert differences(bench) == []
    metrics = bench.run(0).data.metrics
    assert "precision" not in metrics
    assert metrics["odd _B_"] == 1.0  # MLflow takes no parentheses


def test_a_taken_over_trial_keeps_its_run_and_shows_the_new_figures(bench: Bench) -> None:
    """Epochs trained again replace the old figures, one that has become NaN included."""
    claims, claim = bench.claim(lease_s=0.01)
    claims.report(claim, Epoch(1, {"mAP50": 0.9, "precision": 0.5}))
    claims.report(claim, Epoch(2, {"mAP50": 0.8, "precision": 0.5}))
    mirror = bench.mirror()
    mirror.sync_pending()
    before = bench.run(0).info.run_id
    claims, again = bench.claim(host="host-b")
    assert (again.trial_id, again.takeovers) == (claim.trial_id, 1)
    claims.report(again, Epoch(1, {"mAP50": 0.2, "precision": math.nan}))
    claims.report(again, Epoch(2, {"mAP50": 0.3, "precision": 0.25}))
    bench.tell(claims, again)
    mirror.sync_pending()
    run = bench.run(0)
    assert run.info.run_id == before
    assert (run.data.tags["hpo.takeovers"], run.data.tags["hpo.worker_host"]) == ("1", "host-b")
    assert run.data.tags["hpo.value"] == "0.3"
    assert differences(bench) == []


def test_the_studys_run_ends_and_opens_again(bench: Bench, engine: Engine) -> None:
    """RUNNING while there is budget, FINISHED when it is spent, RUNNING again when extended."""

    def status() -> str:
        return next(r.info.status for r in bench.runs() if r.data.tags["hpo.kind"] == "study")

    mirror = bench.mirror()
    mirror.sync_study()
    assert status() == "RUNNING"
    for value in range(6):
        bench.trial(value / 10)
    mirror.sync_study()
    assert status() == "FINISHED"
    assert differences(bench) == []
    extend(engine, bench.study, 7)
    assert mirror.pending_count() == 1
    mirror.sync_study()
    assert status() == "RUNNING"


def test_two_mirrors_at_once_make_one_run_a_trial(bench: Bench) -> None:
    """However many copy at the same time, each trial and the study have one run."""
    for value in range(5):
        bench.trial(value / 10, end=End.PRUNED)
    mirrors = [bench.mirror() for _ in range(4)]
    errors: list[BaseException] = []

    def copy(mirror: Mirror) -> None:
        try:
            mirror.sync_study()
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=copy, args=[mirror]) for mirror in mirrors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(bench.runs()) == 6
    assert differences(bench) == []


def test_a_run_that_was_made_and_not_recorded_is_found_again(bench: Bench, engine: Engine) -> None:
    """A mirror killed between making a run and recording it leaves no second run."""
    bench.trial(0.1, 0.2)
    mirror = bench.mirror()
    mirror.sync_study()
    before = {run.info.run_id for run in bench.runs()}
    execute(engine, "update hpo.mirror set run_id = null, change = 0, state = null, files = false")
    execute(engine, "update hpo.mirror_study set run_id = null, experiment_id = null, state = null")
    again = bench.mirror()
    assert again.pending_count() == 2
    again.sync_study()
    assert {run.info.run_id for run in bench.runs()} == before
    assert differences(bench) == []


def test_a_twin_run_is_removed(bench: Bench, engine: Engine) -> None:
    """Two runs of one trial, made by a mirror paused at the wrong moment, become one again."""
    claim = bench.trial(0.1)
    mirror = bench.mirror()
    mirror.sync_study()
    run, client = bench.run(0), bench.client()
    tags = {"hpo.study_id": str(bench.study.study_id), "hpo.trial": "0", "hpo.kind": "trial"}
    client.create_run(run.info.experiment_id, start_time=run.info.start_time, tags=tags)
    assert "2 runs" in differences(bench)[0]
    execute(engine, "update hpo.mirror set run_id = null where trial_id = :id", id=claim.trial_id)
    mirror.sync_study()
    assert differences(bench) == []


def test_a_run_of_another_database_is_not_taken(bench: Bench) -> None:
    """Where ids were counted anew, a run with the same tags and another start is left alone."""
    mirror = bench.mirror()
    mirror.sync_study()
    experiment = bench.runs()[0].info.experiment_id
    tags = {"hpo.study_id": str(bench.study.study_id), "hpo.trial": "0", "hpo.kind": "trial"}
    old = bench.client().create_run(experiment, start_time=1_000, tags=tags)
    bench.client().log_param(old.info.run_id, "x", "of another time")
    claim = bench.trial(0.1)
    mirror.sync_study()
    fresh = [r for r in bench.runs() if r.data.params.get("x") == str(claim.params["x"])]
    assert len(fresh) == 1
    assert any(old.info.run_id in line for line in differences(bench))


@pytest.mark.parametrize(
    ("tampering", "expected"),
    [
        ("metric", "trial-0000: metric mAP50, step 1: 0.1 expected, 0.9 in MLflow"),
        ("delete", "trial-0000: run: a run expected, nothing in MLflow"),
        ("extra", "trial-77: run: nothing expected"),
        ("tag", "trial-0000: tag hpo.state: 'COMPLETE' expected, 'FAIL' in MLflow"),
        ("param", "trial-0000: parameter forged: nothing expected, '1' in MLflow"),
        ("status", "trial-0000: status: 'FINISHED' expected, 'RUNNING' in MLflow"),
        ("file", "trial-0000: sha256 of weights/best.pt"),
        ("parent", "study: run: "),
    ],
)
def test_verify_finds(bench: Bench, tampering: str, expected: str) -> None:
    """Whatever differs in MLflow is named, with what was expected and what was found."""
    bench.trial(0.1, 0.2)
    bench.mirror().sync_study()
    assert differences(bench) == []
    tamper(bench, tampering)
    found = differences(bench)
    assert any(line.startswith(expected) for line in found), found


def tamper(bench: Bench, how: str) -> None:
    run, client = bench.run(0), bench.client()
    run_id = run.info.run_id
    match how:
        case "metric":
            client.log_metric(run_id, "mAP50", 0.9, step=1)
        case "delete":
            client.delete_run(run_id)
        case "extra":
            tags = {"hpo.study_id": str(bench.study.study_id), "hpo.trial": "77"}
            client.create_run(run.info.experiment_id, tags=tags)
        case "tag":
            client.set_tag(run_id, "hpo.state", "FAIL")
        case "param":
            client.log_param(run_id, "forged", "1")
        case "status":
            client.update_run(run_id, status="RUNNING")
        case "file":
            file = Path(run.info.artifact_uri) / "weights" / "best.pt"
            file.write_bytes(bytes(len(file.read_bytes())))
        case "parent":
            client.delete_run(run.data.tags["mlflow.parentRunId"])


def test_runs_deleted_in_mlflow_are_built_again(bench: Bench) -> None:
    """`sync` brings back a deleted trial's run and the study's own."""
    bench.trial(0.1)
    bench.trial(0.2)
    mirror = bench.mirror()
    mirror.sync_study()
    for run in bench.runs():
        if run.data.tags.get("hpo.trial") != "1":
            bench.client().delete_run(run.info.run_id)
    result = mirror.sync_study()
    assert (result.rebuilt, result.copied, result.behind) == (1, 1, 0)
    # The other trial's run hangs below the study's new one after its own next copy only.
    assert [line for line in differences(bench) if "parentRunId" not in line] == []


def test_a_deleted_or_renamed_experiment_is_used_on(bench: Bench) -> None:
    """An experiment that someone deleted is restored; a renamed one keeps its new name."""
    bench.trial(0.1)
    mirror = bench.mirror()
    mirror.sync_study()
    client, experiment = bench.client(), bench.runs()[0].info.experiment_id
    client.delete_experiment(experiment)
    assert mirror.sync_study().behind == 0
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    client.rename_experiment(experiment, f"{bench.study.name} renamed")
    bench.trial(0.2)
    assert mirror.sync_study().behind == 0
    assert client.get_experiment_by_name(bench.study.name) is None
    assert differences(bench) == []


def test_a_study_deleted_meanwhile_is_dropped_quietly(
    bench: Bench, engine: Engine, database_url: str
) -> None:
    """A study deleted in Optuna leaves no marks behind and raises nothing."""
    claim = bench.trial(0.1)
    mirror = bench.mirror()
    mirror.sync_study()
    optuna.delete_study(study_name=bench.study.name, storage=database_url)
    assert mirror.sync_trial(claim.trial_id) is False
    assert mirror.sync_study().behind == 0
    with engine.connect() as connection:
        assert connection.scalar(text("select count(*) from hpo.mirror")) == 0
        assert connection.scalar(text("select count(*) from hpo.mirror_study")) == 0


def test_one_refused_trial_does_not_hold_up_the_others(bench: Bench, tmp_path: Path) -> None:
    """A trial whose file is gone from the store is noted as such; the next one is copied."""
    bench.trial(0.1)
    for content in (Path(bench.settings.artifacts) / "objects").glob("*/*"):
        content.unlink()
    bench.trial(0.2)
    result = bench.mirror().sync_study()
    assert (result.copied, result.behind) == (1, 1)
    assert "is not in" in result.errors[0]
    with bench.engine.connect() as connection:
        stored = connection.scalars(text("select error from hpo.mirror where error is not null"))
        assert list(stored) == result.errors
    assert tmp_path.exists()


def test_the_environment_does_not_disturb(bench: Bench, clean_env: pytest.MonkeyPatch) -> None:
    """A run id, an experiment id and asynchronous logging in the environment change nothing."""
    clean_env.setenv("MLFLOW_RUN_ID", "f" * 32)
    clean_env.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    clean_env.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    clean_env.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    bench.trial(0.1)
    assert bench.mirror().sync_study().errors == []
    assert differences(bench) == []


def test_the_default_database_is_made_and_made_again(
    engine: Engine, settings: Settings, database_url: str, tmp_path: Path
) -> None:
    """MLflow's own database is created at need; when it was dropped, all runs are rebuilt."""
    bench = Bench(engine, settings, tmp_path)
    bench.trial(0.1, 0.2)
    mirror = bench.mirror()
    mirror.sync_study()
    assert differences(bench) == []
    name = f"{engine.url.database}_mlflow"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"drop database {name} with (force)"))
    assert mirror.pending_count() == 0
    again = bench.mirror()
    result = again.sync_study()
    assert (result.rebuilt, result.copied, result.behind) == (1, 1, 0)
    assert differences(bench) == []
    bench.close()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"drop database {name} with (force)"))
    assert database_url


def test_an_mlflow_that_is_not_there_is_said_without_passwords(settings: Settings) -> None:
    """The error names the address and the cause, and no password."""
    from dataclasses import replace

    for uri in ("http://me:secret@127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/mlflow"):
        with pytest.raises(TrackingError) as caught:
            open_client(replace(settings, tracking_uri=uri), str(settings.storage))
        assert "127.0.0.1:9" in str(caught.value)
        assert "refused" in str(caught.value)
        assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_deleting_a_study_leaves_its_runs(bench: Bench, engine: Engine) -> None:
    """`hpo delete` deletes what PostgreSQL has; MLflow's runs stay."""
    bench.trial(0.1)
    bench.mirror().sync_study()
    delete_study(engine, bench.study)
    assert len(bench.runs()) == 2
