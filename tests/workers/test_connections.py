"""A worker holds two connections to the studies' database, and needs no third."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from faults.http_proxy import NONE, Fault, HttpProxy
from sqlalchemy import create_engine, text
from support.postgres import Watcher, limited
from support.studies import HYPERBAND, TPE, simulated_study
from support.training import wait_until

from hpo.cli.main import cli
from hpo.promotion.lock import promotion_lock
from hpo.storage.postgres.engine import Database
from hpo.studies.spec import Promotion
from hpo.tracking.client import open_client
from hpo.tracking.mirror_thread import MirrorThread
from workers.worker import Worker

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from support.mlflow_server import MlflowServer
    from support.studies import Bench

    from hpo.settings import Settings

TAKEN = "idle in transaction"
STALLED_S = 12.0  # two leases: without renewals the trial would be another's


@pytest.mark.parametrize(("promotes", "served"), [(False, True), (True, True), (True, False)])
def test_a_worker_needs_no_more_connections_than_promised(
    here: Settings,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    *,
    promotes: bool,
    served: bool,
) -> None:
    """PostgreSQL refuses a third: trials, checkpoints, mirror, finals and promotion do with two.

    Also where MLflow has no server, but a database beside the studies'.
    """
    if not served:
        here = replace(here, tracking_uri=None)
        open_client(here, str(here.storage))  # makes it, which takes another connection, once
    caplog.set_level(logging.WARNING, "hpo")
    target = Promotion(model=f"connections-{promotes}", alias="champion", wanted=promotes)
    study = simulated_study(
        engine, study=f"connections-{promotes}", sampler=TPE, pruner=HYPERBAND, epochs=4,
        train={"epoch_s": 0.05}, promotion=target,
    )  # fmt: skip
    engine.dispose()  # ours are counted too
    with limited(str(here.storage), 2) as url, Watcher(url) as watcher:
        summary = Worker(replace(here, storage=url), study.name, device="cpu").run()
    assert (summary.why, summary.count) == ("finished", 6)
    (note,) = summary.notes
    assert note.startswith("promoted") == promotes, note
    assert watcher.most == 2
    assert [record.getMessage() for record in caplog.records] == []
    with engine.connect() as connection:
        behind = text(
            "select count(*) from trials left join hpo.mirror using (trial_id) "
            "where files is not true"
        )
        assert connection.scalar(behind) == 0


@pytest.mark.cluster
def test_a_stalled_mlflow_delays_neither_reports_nor_renewals(
    here: Settings, engine: Engine, mlflow_server: MlflowServer
) -> None:
    """While a copy holds one of the two connections, epochs and renewals go on over the other."""
    lease_s = STALLED_S / 2
    study = simulated_study(engine, trials=1, epochs=400, train={"epoch_s": 0.25})
    with HttpProxy(mlflow_server.url) as proxy, Watcher(str(here.storage)) as watcher:
        settings = replace(here, tracking_uri=proxy.url, lease_s=lease_s)
        worker = Worker(settings, study.name, device="cpu", promote=False)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            wait_until(lambda: _stands(engine)[0] > 4, "epochs are reported")
            _stall(proxy, watcher)
            engine.dispose()
            watcher.most = 0
            before, _ = _stands(engine)
            left = []
            until = time.monotonic() + STALLED_S
            while time.monotonic() < until:
                left.append(_stands(engine)[1])
                time.sleep(0.2)
            assert watcher.held == 1  # the copy still waits
            after, _ = _stands(engine)
        finally:
            proxy.fault = NONE
            worker.drain()
            thread.join(120)
    assert not thread.is_alive()
    assert min(left) > 0  # s until the lease would have run out
    assert after - before > STALLED_S / 0.25 / 4
    assert watcher.most <= 2 + 1  # and ours


def _stands(engine: Engine) -> tuple[int, float]:
    """(epochs reported, seconds left of the lease)."""
    with engine.connect() as connection:
        row = connection.execute(text(
            "select (select count(*) from hpo.epoch), "
            "(select min(extract(epoch from expires_at - clock_timestamp())) from hpo.lease)"
        )).one()  # fmt: skip
    return int(row[0]), float(row[1] or 0)


def _stall(proxy: HttpProxy, watcher: Watcher) -> None:
    """Let MLflow hang in the middle of a copy, which then holds its transaction."""
    for _ in range(20):
        proxy.fault = Fault(delay_s=STALLED_S * 3)
        time.sleep(2)
        if watcher.held:
            return
        proxy.fault = NONE
        time.sleep(STALLED_S)
    raise AssertionError("no copy was caught in its transaction")


def test_copies_beyond_the_places_for_them_wait_without_a_transaction(bench: Bench) -> None:
    """Where 8 mirrors write MLflow, a ninth leaves the trial for later and holds nothing open."""
    claim = bench.trial(0.1)
    mirror = bench.mirror()
    assert mirror.sync_parent()
    with bench.engine.begin() as connection:
        connection.execute(
            text("select pg_advisory_xact_lock(1836020594, n) from generate_series(1, 8) n")
        )
        assert not mirror.sync_trial(claim.trial_id)
        assert [state for state in _states(bench.engine) if state != "idle"] == ["active", TAKEN]
    assert mirror.sync_pending().behind == 0


def test_who_waits_to_promote_keeps_no_transaction_open(engine: Engine) -> None:
    """With PgBouncer those who wait would occupy the connections that the holder needs."""
    model, waits, done = "connections-wait", threading.Event(), threading.Event()

    def wait() -> None:
        with promotion_lock(Database(engine), model, waits.set):
            done.set()

    with promotion_lock(Database(engine), model, lambda: None):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(60)
        time.sleep(0.2)  # within its pause
        assert sorted(_states(engine)) == ["active", TAKEN]
    thread.join(60)
    assert done.is_set()


def test_finals_and_a_promotion_by_hand_do_with_two(
    here: Settings, engine: Engine, clean_env: pytest.MonkeyPatch
) -> None:
    """`hpo finalize` runs a worker for the finals, and gives its own connections back before."""
    target = Promotion(model="by-hand", alias="champion")
    study = simulated_study(engine, study="by-hand", trials=3, promotion=target)
    Worker(here, study.name, device="cpu", promote=False).run()
    engine.dispose()
    clean_env.setenv("HPO_HOME", str(here.home))
    clean_env.setenv("HPO_ARTIFACTS", here.artifacts)
    clean_env.setenv("MLFLOW_TRACKING_URI", str(here.tracking_uri))
    with limited(str(here.storage), 2) as url:
        clean_env.setenv("HPO_STORAGE", url)
        done = CliRunner().invoke(cli, ["finalize", "--study", study.name, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["outcome"] == "promoted"
    assert "connections" not in done.stderr  # a third, which is refused, would be tried again


def test_a_mirror_without_a_connection_waits_in_silence(
    here: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker's two are in use, for a promotion: that is no outage of MLflow."""
    caplog.set_level(logging.WARNING, "hpo")
    study = simulated_study(engine, trials=1)
    pool = create_engine(str(here.storage), pool_size=2, max_overflow=0, pool_timeout=0.2)
    with MirrorThread(here, study, database=Database(pool)) as mirror:
        assert mirror.flush()
        with pool.connect(), pool.connect():
            mirror.wake()
            time.sleep(1)
        assert mirror.flush()
    pool.dispose()
    assert [record.getMessage() for record in caplog.records] == []


def test_a_promotion_and_its_workers_mirrors_take_turns(database: Database) -> None:
    """One of the two connections is for those who talk to MLflow, the lock's holder included."""
    mirrored = threading.Event()

    def mirror() -> None:
        with database.long_transaction():
            mirrored.set()

    thread = threading.Thread(target=mirror)
    with promotion_lock(database, "connections-turn", lambda: None):
        thread.start()
        assert not mirrored.wait(0.5)
    thread.join(60)
    assert mirrored.is_set()


def _states(engine: Engine) -> list[str]:
    """What the connections to this database do, this one included."""
    with engine.connect() as connection:
        return list(connection.scalars(
            text("select state from pg_stat_activity where datname = current_database() "
                 "order by state")
        ))  # fmt: skip
