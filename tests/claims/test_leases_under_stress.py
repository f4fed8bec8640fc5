"""Leases while PostgreSQL goes, connections are cut, clocks are wrong and workers are paused."""

from __future__ import annotations

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from support.studies import claimed, claims_of, epoch, simulated_study
from support.training import wait_until

from hpo.claims.checkpoints import Checkpoints
from hpo.claims.claims import Claim, Claims, LeaseStatus, NoTrial
from hpo.errors import DatabaseError
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres import embedded, embedded_server, schema
from hpo.storage.postgres import engine as engines
from hpo.storage.postgres.engine import Database, make_engine
from hpo.studies.store import extend
from hpo.studies.trials import trial_rows
from hpo.trainer import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from support.command_line import StartWorker

    from hpo.settings import Settings
    from hpo.studies.store import Study
    from hpo.studies.trials import TrialSummary

SHIFTED = str(Path(__file__).parents[1] / "faults" / "shifted")
DAY_S = 86400
ONE = text("select 1")


def rows(engine: Engine, study: Study) -> list[TrialSummary]:
    return Database(engine, patience_s=60).run(lambda connection: trial_rows(connection, study))


def in_epoch(engine: Engine, study: Study, number: int, trial: int = 0) -> None:
    """Wait until the trial has recorded this epoch."""
    wait_until(
        lambda: any(one.number == trial and one.epochs >= number for one in rows(engine, study)),
        f"epoch {number} of trial {trial}",
    )


# Too few connections


@pytest.fixture
def small_pool(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with one connection, whose pool is waited for only for a moment."""
    monkeypatch.setattr(engines, "POOL_WAIT_S", 0.2)
    engine = make_engine(database_url, pool_size=1)
    yield engine
    engine.dispose()


def test_a_full_pool_is_said_with_what_to_do(small_pool: Engine) -> None:
    """No thread waits for ever for a connection that another one never gives back."""
    with small_pool.connect(), pytest.raises(DatabaseError, match="is in use") as caught:
        Database(small_pool, patience_s=0.5).scalar(ONE)
    assert "start it again" in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_full_pool_is_waited_for(small_pool: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Within the patience a call goes on as soon as a connection is free."""
    with ThreadPoolExecutor(1) as pool:
        with small_pool.connect():
            late = pool.submit(Database(small_pool, patience_s=60).scalar, ONE)
            wait_until(lambda: "is in use" in caplog.text, "the wait is said")
        assert late.result(timeout=60) == 1


@contextmanager
def all_connections_of(engine: Engine) -> Iterator[None]:
    """Hold every connection that the server gives."""
    greedy = make_engine(engine.url.render_as_string(hide_password=False), pool_size=500)
    held = []
    try:
        with suppress(OperationalError):
            while True:
                held.append(greedy.connect())
        yield
    finally:
        for connection in held:
            connection.close()
        greedy.dispose()


def test_a_full_server_is_waited_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With max_connections reached a worker's write waits, and is made when there is room."""
    monkeypatch.setitem(embedded_server.OPTIONS, "max_connections", "8")
    engine = make_engine(embedded.ensure_running(home))
    schema.upgrade(engine)
    study = simulated_study(engine, trials=1)
    claims = claims_of(engine, study)
    claim = claimed(claims)
    engine.dispose()
    with ThreadPoolExecutor(1) as pool:
        with all_connections_of(engine):
            late = pool.submit(claims.report, claim, epoch(1, 0.5))
            wait_until(lambda: "has no connection left" in caplog.text, "the wait is said")
            assert not late.done()
        assert late.result(timeout=60) is LeaseStatus.GO
    engine.dispose()


# PostgreSQL goes and comes back


def test_a_restart_and_a_crash_of_postgresql_delay_a_trial_and_fail_nothing(
    settings: Settings, home: Path, mlflow_url: str, start_worker: StartWorker
) -> None:
    """Stopped and started, then killed with -9, in the middle of a trial: every epoch is there."""
    storage = embedded.ensure_running(home)
    settings = replace(settings, storage=storage, home=home, tracking_uri=mlflow_url)
    open_store(settings).require_writable()
    engine = make_engine(str(settings.storage), home=home)
    schema.upgrade(engine)
    study = simulated_study(engine, study="shaken", trials=1, epochs=12, train={"epoch_s": 0.3})
    worker = start_worker(settings, study)
    in_epoch(engine, study, 2)
    embedded.stop(home)
    # It waits; or it asked in the middle of the stop, and has revived the server by itself
    wait_until(
        lambda: "trying for" in worker.said() or embedded.status(home).pid is not None,
        "the worker notices",
    )
    embedded.ensure_running(home)
    in_epoch(engine, study, 5)
    pid = embedded.status(home).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert worker.ended() == 0, worker.said()
    (row,) = rows(engine, study)
    assert (row.state, row.epochs, row.takeovers) == ("complete", 12, 0)
    assert embedded.status(home).pid not in (None, pid)
    engine.dispose()


def test_connections_cut_again_and_again_cost_nothing(
    here: Settings, engine: Engine, start_worker: StartWorker
) -> None:
    """The budget is exact, every trial complete, every epoch recorded, nothing taken over."""
    settings = replace(here, lease_s=10.0)
    study = simulated_study(engine, study="cut", trials=5, epochs=4, train={"epoch_s": 0.1})
    worker = start_worker(settings, study)
    in_epoch(engine, study, 1)
    cut = text(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where datname = current_database() and application_name = 'hpo'"
    )
    rng, pause, cuts = random.Random(0), threading.Event(), 0
    while [row.state for row in rows(engine, study)].count("complete") < 5:
        with engine.begin() as connection:
            cuts += int(connection.scalar(cut) or 0)
        pause.wait(rng.uniform(0.05, 0.4))
        assert worker.process.poll() in (None, 0), worker.said()
    assert worker.ended() == 0, worker.said()
    assert cuts > 0
    found = rows(engine, study)
    assert [(row.number, row.epochs, row.takeovers) for row in found] == [
        (number, 4, 0) for number in range(5)
    ]


# Clocks


@pytest.mark.parametrize("shift_s", [DAY_S, pytest.param(-DAY_S, marks=pytest.mark.faults)])
def test_a_clock_that_is_a_day_off_takes_nothing_over(
    here: Settings, engine: Engine, start_worker: StartWorker, shift_s: int
) -> None:
    """Leases are the database's time alone: two hosts, a day apart, share a study in peace."""
    settings = replace(here, lease_s=10.0)
    study = simulated_study(engine, study="skewed", trials=6, epochs=3, train={"epoch_s": 0.2})
    workers = [
        start_worker(settings, study),
        start_worker(settings, study, PYTHONPATH=SHIFTED, HPO_TEST_SHIFT_S=str(shift_s)),
    ]
    assert [worker.ended() for worker in workers] == [0, 0], [one.said() for one in workers]
    found = rows(engine, study)
    assert [(row.number, row.state, row.takeovers) for row in found] == [
        (number, "complete", 0) for number in range(6)
    ]
    assert {f":{worker.pid}" for worker in workers} == {
        f":{(row.worker or '').rpartition(':')[2]}" for row in found
    }, "both had trials"


# Pauses


def test_a_worker_paused_before_its_commit_holds_nobody_up(engine: Engine) -> None:
    """Claimed and not yet committed, it holds the study's row: the server lets others through."""
    study = simulated_study(engine, trials=1)
    with engine.connect() as paused:
        row = paused.execute(
            text("select * from hpo.claim(:study, 1, gen_random_uuid(), 30)"),
            {"study": study.study_id},
        ).one()
        assert row.number == 0
        other = claimed(claims_of(engine, study, 2))  # waits for the server's patience
        assert (other.number, other.takeovers) == (0, 0)
        paused.invalidate()  # the server has ended it
    assert claims_of(engine, study, 3).claim() is NoTrial.WAIT


def test_a_worker_paused_past_its_lease_spoils_no_checkpoint_of_the_next_one(
    here: Settings, engine: Engine, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Continued, it leaves the trial and its checkpoints alone and goes on with another claim."""
    study = simulated_study(engine, study="paused", trials=1, epochs=40, train={"epoch_s": 0.1})
    paused = start_worker(here, study)
    in_epoch(engine, study, 3)
    paused.send(signal.SIGSTOP)
    claims = Claims(Database(engine, patience_s=60.0), study, 0, lease_s=600.0)
    taken: list[Claim] = []

    def take_over() -> bool:
        got = claims.claim()
        taken.extend([got] if isinstance(got, Claim) else [])
        return bool(taken)

    wait_until(take_over, "the paused worker's trial is taken over")
    checkpoints = Checkpoints(claims, taken[0], open_store(here))
    (found, *_) = checkpoints.found()
    assert claims.resume(taken[0], found.epoch, "")
    state = tmp_path / "state"
    state.write_text("of the new holder")
    mine = Checkpoint(found.epoch + 1, state, None, None)
    assert checkpoints.keep(mine) is LeaseStatus.GO
    before = checkpoints.found()
    extend(engine, study, 2)
    paused.send(signal.SIGCONT)
    in_epoch(engine, study, 3, trial=1)
    assert checkpoints.found() == before, "nothing was recorded"
    fetched = [checkpoints.fetch(one, tmp_path / f"{one.epoch}").epoch for one in before]
    assert fetched == [found.epoch + 1, found.epoch], "nothing that is needed was removed"
    assert "trial 0 is no longer this worker's" in paused.said()
    assert claims.renew(taken[0]) is LeaseStatus.GO
