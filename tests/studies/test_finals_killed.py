"""Finals shared by real workers that are killed and drained: each is done once, and goes on."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from support.command_line import wait_for
from support.promotion import promotions

from hpo.promotion.decision import Outcome
from hpo.storage.artifacts.opening import open_store
from hpo.studies.spec import Promotion

if TYPE_CHECKING:
    from support.command_line import StartWorker
    from support.promotion import PromotionBench

    from hpo.settings import Settings
    from hpo.studies.store import Study


@pytest.fixture
def bench(promotion_bench: PromotionBench) -> PromotionBench:
    """With leases so short that a takeover comes soon."""
    promotion_bench.settings.home.mkdir(exist_ok=True)
    open_store(promotion_bench.settings).require_writable()
    return promotion_bench


def slow_finals(bench: PromotionBench) -> Study:
    """A finished study whose two finalists are trained again for eight epochs of half a second."""
    promotion = Promotion(model=bench.model, alias="champion", finalists=2, full_epochs=8)
    study = bench.study(promotion=promotion, train={"epoch_s": 0.5})
    bench.told(study, 0.3, 0.6)
    return study


def machine(bench: PromotionBench) -> Settings:
    """Settings of a worker process."""
    return replace(bench.settings, lease_s=2.0)


def in_final(bench: PromotionBench, epoch: int) -> bool:
    """Whether a final is in training and has come so far."""
    with bench.engine.connect() as connection:
        return bool(connection.scalar(
            text("select max(e.epoch) >= :epoch from hpo.epoch e join hpo.final f using (trial_id)"
                 " join trials t using (trial_id) where t.state = 'RUNNING'"),
            {"epoch": epoch},
        ))  # fmt: skip


def attempts(bench: PromotionBench) -> list[tuple[int, int, str]]:
    """(final, epoch that it went on from, how that ended) of every claim of a final."""
    with bench.engine.connect() as connection:
        rows = connection.execute(
            text("select t.number, a.resumed_epoch, a.ended from hpo.attempt a "
                 "join hpo.final f using (trial_id) join trials t using (trial_id) "
                 "order by t.number, a.attempt")
        )  # fmt: skip
        return [tuple(row) for row in rows]


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.promotion)]
)
def test_a_final_whose_worker_goes_is_continued_by_another(
    bench: PromotionBench, start_worker: StartWorker, how: signal.Signals
) -> None:
    """From its checkpoint, under the same number; the promotion comes once all are over."""
    study = slow_finals(bench)
    first = start_worker(machine(bench), study)
    wait_for(lambda: in_final(bench, 3), "a final in its third epoch")
    first.send(how)
    first.process.wait(timeout=60)
    assert promotions(bench.engine) == []
    second = start_worker(machine(bench), study)
    assert second.ended() == 0, second.said()
    taken = next(row for row in attempts(bench) if row[1])
    assert taken[1] >= 2
    assert [row[2] for row in attempts(bench)].count("told") == 2
    (row,) = promotions(bench.engine)
    assert (row.outcome, row.version) == (Outcome.PROMOTED.value, 1)
    assert (bench.versions(), bench.champion()) == ([1], 1)


@pytest.mark.promotion
def test_two_workers_share_the_finals_and_promote_once(
    bench: PromotionBench, start_worker: StartWorker
) -> None:
    """Each final is claimed once; whoever sees the end first promotes, the other finds it done."""
    study = slow_finals(bench)
    workers = [start_worker(machine(bench), study) for _ in range(2)]
    assert [worker.ended() for worker in workers] == [0, 0]
    assert [(row[0], row[2]) for row in attempts(bench)] == [(0, "told"), (1, "told")]
    with bench.engine.connect() as connection:
        count = connection.scalar(text("select count(*) from hpo.lease l join hpo.final f "
                                       "using (trial_id) where l.takeovers = 0"))  # fmt: skip
    assert count == 2
    assert len(promotions(bench.engine)) == 1
    assert "promoted" in "".join(worker.said() for worker in workers)
