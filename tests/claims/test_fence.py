"""A worker that lost its lease writes nothing more, wherever it was paused: real PostgreSQL."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import optuna
import pytest
from sqlalchemy import text
from support.studies import claimed, claims_of, epoch, expire, simulated_study

from hpo.claims.claims import Claim, Claims, End, LeaseStatus, NoTrial
from hpo.storage.postgres.engine import Database

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.trainer import Epoch


def test_the_loser_of_a_lease_writes_nothing_more(engine: Engine, database_url: str) -> None:
    """After a takeover every verb of the old holder finds the fence, and the figures stay."""
    study = simulated_study(engine, trials=1)
    first, second = claims_of(engine, study, 1), claims_of(engine, study, 2)
    old = claimed(first)
    first.report(old, epoch(1, 0.3))
    expire(engine, old)
    new = claimed(second)
    second.report(new, epoch(1, 0.5))
    assert first.report(old, epoch(1, 0.9)) is LeaseStatus.LOST
    assert first.renew(old) is LeaseStatus.LOST
    assert not first.tell(old, End.COMPLETE)
    assert not first.release(old)
    assert second.tell(new, End.COMPLETE)
    trial = optuna.load_study(study_name=study.name, storage=database_url).trials[0]
    assert (trial.value, trial.intermediate_values) == (0.5, {1: 0.5})


class PausedClaims(Claims):
    """A worker that stops between the check of its lease and its next write, until told."""

    checked: threading.Event
    go_on: threading.Event

    def report(self, claim: Claim, epoch: Epoch) -> LeaseStatus:
        assert self.renew(claim) is LeaseStatus.GO, "the lease was good when it was checked"
        self.checked.set()
        assert self.go_on.wait(30)
        return super().report(claim, epoch)


def test_a_worker_paused_between_check_and_write_changes_nothing(
    engine: Engine, database_url: str
) -> None:
    """Its lease was good when it looked; by the time it writes, another worker has the trial."""
    study = simulated_study(engine, trials=1)
    slow = PausedClaims(Database(engine, patience_s=60.0), study, 1, lease_s=30.0)
    slow.checked, slow.go_on = threading.Event(), threading.Event()
    old = claimed(slow)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(slow.report, old, epoch(1, 0.9))
        assert slow.checked.wait(30)
        expire(engine, old)
        new = claimed(claims_of(engine, study, 2))  # the takeover itself, by hpo.claim
        slow.go_on.set()
        assert late.result(timeout=30) is LeaseStatus.LOST
    assert new.takeovers == 1
    trial = optuna.load_study(study_name=study.name, storage=database_url).trials[0]
    assert (trial.state.name, trial.intermediate_values) == ("RUNNING", {})


@pytest.mark.parametrize("verb", ["report", "tell", "renew"])
def test_a_write_that_waits_for_a_takeover_checks_the_token_after_it(
    engine: Engine, database_url: str, verb: str
) -> None:
    """A write that began while a takeover was being committed meets the new token."""
    study = simulated_study(engine, trials=1)
    slow = claims_of(engine, study, 1)
    old = claimed(slow)
    expire(engine, old)
    with engine.connect() as holder, holder.begin() as takeover:
        row = holder.execute(
            text("select * from hpo.claim(:study, 2, gen_random_uuid(), 30)"),
            {"study": study.study_id},
        ).one()
        assert row.kind == "takeover"
        write = {
            "report": lambda: slow.report(old, epoch(1, 0.9)) is LeaseStatus.LOST,
            "tell": lambda: not slow.tell(old, End.FAIL, reason="error"),
            "renew": lambda: slow.renew(old) is LeaseStatus.LOST,
        }[verb]
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(write)
            _wait_for_a_waiter(engine)
            takeover.commit()
            assert late.result(timeout=20), "the late write must find that it lost"
    trial = optuna.load_study(study_name=study.name, storage=database_url).trials[0]
    assert (trial.state.name, trial.intermediate_values) == ("RUNNING", {})


def test_nothing_comes_between_a_guard_and_its_write(engine: Engine) -> None:
    """A write held up after its check keeps trial and lease: no takeover fits in between."""
    study = simulated_study(engine, trials=1)
    slow, other = claims_of(engine, study, 1), claims_of(engine, study, 2)
    claim = claimed(slow)
    expire(engine, claim)
    with engine.connect() as holder, holder.begin() as hindrance:
        # The same step, not committed yet: the report passes its guard and waits at its insert.
        holder.execute(
            text(
                "insert into trial_intermediate_values (trial_id, step, intermediate_value, "
                "intermediate_value_type) values (:id, 1, 0.0, 'FINITE')"
            ),
            {"id": claim.trial_id},
        )
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(slow.report, claim, epoch(1, 0.9))
            _wait_for_a_waiter(engine)
            assert other.claim() is NoTrial.WAIT, "the lease ran out, but its rows are held"
            hindrance.rollback()
            assert late.result(timeout=20) is LeaseStatus.GO
    assert other.claim() is NoTrial.WAIT, "the write renewed the lease"


def _wait_for_a_waiter(engine: Engine) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if connection.scalar(text("select count(*) from pg_locks where not granted")):
                return
        time.sleep(0.02)
    raise AssertionError("the write never waited")
