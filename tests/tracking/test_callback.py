"""The callback in a plain Optuna study, which our service knows nothing of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
import pytest

from hpo.tracking.callback import MirrorCallback
from hpo.tracking.client import open_client
from hpo.tracking.verify import verify

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0.0, 1.0)
    trial.suggest_categorical("kind", ["a", "b"])
    for step in range(3):
        trial.report(x * step, step)
    trial.set_user_attr("note", "plain")
    if trial.number == 1:
        raise optuna.TrialPruned
    if trial.number == 2:
        raise ValueError("told so")
    return x


def test_a_plain_study_is_mirrored(
    engine: Engine, mirror_settings: Settings, database_url: str
) -> None:
    """`optimize(callbacks=[callback])` on our database puts every trial into MLflow."""
    study = optuna.create_study(
        study_name=f"plain-{engine.url.database}", storage=database_url, direction="maximize"
    )
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["mAP50"])
    with MirrorCallback(mirror_settings) as callback:
        study.optimize(objective, n_trials=4, callbacks=[callback], catch=(ValueError,))
        assert callback.flush(timeout_s=300)
    client = open_client(mirror_settings, database_url)
    study_id = study._study_id
    assert verify(engine, client, study_id).differences == []
    experiment = client.get_experiment_by_name(study.study_name)
    runs = {
        run.data.tags.get("hpo.trial", "study"): run
        for run in client.search_runs([experiment.experiment_id])
    }
    statuses = [runs[name].info.status for name in ("0", "1", "2", "3", "study")]
    assert statuses == ["FINISHED", "KILLED", "FAILED", "FINISHED", "FINISHED"]
    first, trial = runs["0"], study.trials[0]
    assert first.data.params == {name: str(value) for name, value in trial.params.items()}
    history = client.get_metric_history(first.info.run_id, "mAP50")
    assert {point.step: point.value for point in history} == trial.intermediate_values
    assert first.data.metrics["value"] == trial.value
    assert first.data.tags["attr.note"] == "plain"
    assert first.data.tags["mlflow.parentRunId"] == runs["study"].info.run_id


def test_a_database_that_only_optuna_used_will_do(
    empty_database_url: str, mirror_settings: Settings
) -> None:
    """The callback brings the tables it needs along; several objectives are mirrored too."""
    from dataclasses import replace

    from sqlalchemy import create_engine

    study = optuna.create_study(
        study_name=f"two-{empty_database_url[-12:]}",
        storage=empty_database_url,
        directions=["maximize", "minimize"],
    )
    settings = replace(mirror_settings, storage=empty_database_url)
    with MirrorCallback(settings) as callback:
        study.optimize(lambda t: (t.suggest_int("n", 1, 9), 0.5), n_trials=2, callbacks=[callback])
        assert callback.flush(timeout_s=300)
    client = open_client(settings, empty_database_url)
    engine = create_engine(empty_database_url)
    assert verify(engine, client, study._study_id).differences == []
    engine.dispose()
    experiment = client.get_experiment_by_name(study.study_name)
    runs = client.search_runs([experiment.experiment_id], "tags.`hpo.trial` = '0'")
    assert runs[0].data.metrics == {"value/0": study.trials[0].values[0], "value/1": 0.5}


def test_an_optimization_does_not_notice_that_mlflow_is_away(
    mirror_settings: Settings, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No error of MLflow's leaves the callback, at any trial or at the end."""
    from dataclasses import replace

    study = optuna.create_study(study_name="away", storage=database_url)
    callback = MirrorCallback(replace(mirror_settings, tracking_uri="http://127.0.0.1:9"))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3, callbacks=[callback])
    assert callback.close(timeout_s=30) is False
    assert len(study.trials) == 3
    assert "nothing reaches MLflow" in caplog.text
