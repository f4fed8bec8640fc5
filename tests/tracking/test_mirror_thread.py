"""The mirror's thread over a real MLflow server that goes away and comes back."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text
from support.studies import Bench

from hpo.claims.claims import LeaseStatus
from hpo.tracking.mirror_thread import MirrorThread
from hpo.tracking.verify import verify
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from sqlalchemy import Engine
    from support.mlflow_server import MlflowServer

    from hpo.settings import Settings


def until(reached: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Wait for something that the thread brings about."""
    end = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


def test_an_outage_of_mlflow_reaches_no_trial(
    engine: Engine,
    settings: Settings,
    mlflow_server: MlflowServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Trials go on while MLflow is away, the lag is counted, and MLflow catches up by itself."""
    caplog.set_level(logging.WARNING, "hpo")
    bench = Bench(engine, replace(settings, tracking_uri=mlflow_server.url), tmp_path)
    look = bench.mirror()
    with MirrorThread(bench.settings, bench.study) as thread:
        bench.trial(0.1, 0.2)
        thread.wake()
        until(lambda: look.pending_count() == 0)
        mlflow_server.stop()
        claims, claim = bench.claim()
        for number in (1, 2, 3):
            assert claims.report(claim, Epoch(number, {"mAP50": number / 10})) is LeaseStatus.GO
            thread.wake(claim.trial_id)
        bench.tell(claims, claim)
        until(lambda: "nothing reaches MLflow" in caplog.text)
        assert look.pending_count() == 1
        assert thread.flush(timeout_s=300) is False
        with engine.connect() as connection:
            stored = connection.scalar(text("select error from hpo.mirror_study"))
        assert mlflow_server.url in stored
        mlflow_server.start()
        until(lambda: look.pending_count() == 0)
        assert thread.flush(timeout_s=300)
    assert caplog.text.count("nothing reaches MLflow") == 1
    assert verify(engine, bench.client(), bench.study.study_id).differences == []
    weights = bench.client().list_artifacts(bench.run(1).info.run_id, "weights")
    assert [item.path for item in weights] == ["weights/best.pt"]
    bench.close()


def test_leaving_copies_what_is_pending(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that leaves flushes: MLflow then has all of it, and nothing is complained of."""
    caplog.set_level(logging.WARNING, "hpo")
    thread = MirrorThread(bench.settings, bench.study)
    for value in (0.1, 0.2, 0.3):
        bench.trial(value)
        thread.wake()
    assert thread.close(timeout_s=300)
    assert bench.mirror().pending_count() == 0
    assert verify(bench.engine, bench.client(), bench.study.study_id).differences == []
    assert caplog.text == ""


def test_a_thread_without_mlflow_gives_up_its_flush(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """With MLflow away from the start a worker still ends, and says what to do."""
    settings = replace(bench.settings, tracking_uri="http://127.0.0.1:9")
    with MirrorThread(settings, bench.study) as thread:
        bench.trial(0.1)
        thread.wake()
    assert "hpo mirror sync" in caplog.text
    assert bench.mirror().pending_count() == 2


def test_a_flush_does_not_wait_for_what_is_refused(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A trial that cannot be copied is named once, and the worker leaves without it."""
    bench.trial(0.1)
    for content in (Path(bench.settings.artifacts) / "objects").glob("*/*"):
        content.unlink()
    thread = MirrorThread(bench.settings, bench.study)
    assert thread.flush(timeout_s=300) is False
    assert thread.flush(timeout_s=300) is False
    thread.close()
    assert caplog.text.count("MLflow lacks a trial") == 1
    assert bench.mirror().pending_count() == 1


def test_one_experiment_never_mixes_two_ways_of_keeping_files(
    bench: Bench, mlflow_server: MlflowServer
) -> None:
    """A study whose files a server keeps is not continued around that server."""
    served = replace(bench.settings, tracking_uri=mlflow_server.url)
    bench.mirror(served).sync_study()
    bench.trial(0.1)
    direct = bench.mirror()
    direct.reconcile()
    result = direct.sync_pending()
    assert result.behind == 1
    assert "out of reach" in result.errors[0]
