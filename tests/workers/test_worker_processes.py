"""`hpo worker` in real processes: killed, paused, interrupted, and on a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from support.command_line import HPO
from support.studies import other_claims, rows, simulated_study
from support.training import is_running, wait_until

from hpo.claims.claims import Claim, End
from hpo.studies.status import status
from hpo.studies.store import extend
from hpo.studies.trials import trial_details
from workers.events import Event, Kind
from workers.study_loop import Limits
from workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine
    from support.command_line import StartWorker, WorkerProcess

    from hpo.settings import Settings
    from hpo.studies.store import Study

SLOW = {"epoch_s": 0.5}  # an epoch in which a signal or something outside this service may come


def details(engine: Engine, study: Study, number: int = 0) -> dict[str, Any]:
    with engine.connect() as connection:
        return trial_details(connection, study, number)


@pytest.fixture
def start(here: Settings, start_worker: StartWorker) -> Callable[..., WorkerProcess]:
    """Starts workers of this machine that are gone after the test."""
    return partial(start_worker, here)


def in_epoch(engine: Engine, study: Study, epoch: int = 1, trial: int = 0) -> None:
    """Wait until the trial has recorded this epoch."""
    wait_until(
        lambda: any(row.number == trial and row.epochs >= epoch for row in rows(engine, study)),
        f"epoch {epoch} of trial {trial}",
    )


def children_of(pid: int) -> list[int]:
    done = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in done.stdout.split()]


def test_a_killed_workers_trial_is_taken_over(
    here: Settings, engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    """Another worker waits for the lease, then runs the same trial: the budget stays exact."""
    study = simulated_study(engine, study="killed", trials=1, epochs=6, train=SLOW)
    victim = start(study)
    in_epoch(engine, study)
    (before,) = rows(engine, study)
    children = children_of(victim.process.pid)
    assert children, "the training runs in a process of its own"
    wait_until(lambda: bool(details(engine, study)["checkpoints"]), "a checkpoint is stored")
    victim.send(signal.SIGKILL)
    events: list[Event] = []
    worker = Worker(here, study.name, device="cpu", watch=events.append, limits=Limits(n_trials=1))
    assert worker.run().ended == {End.COMPLETE: 1}
    assert Kind.WAITING in [event.kind for event in events], "it came before the lease ran out"
    (after,) = rows(engine, study)
    assert (after.number, after.params) == (before.number, before.params)
    assert (after.state, after.takeovers, after.epochs) == ("complete", 1, 6)
    wait_until(lambda: not any(is_running(pid) for pid in children), "the training dies too")
    first, second = details(engine, study)["attempts"]
    assert (first["how"], second["how"]) == ("silent", "told")
    assert 1 <= second["resumed_epoch"] <= 5, "it went on from a checkpoint"
    reported = [event.epoch for event in events if event.kind is Kind.EPOCH]
    assert reported == list(range(second["resumed_epoch"] + 1, 7))
    text = f"trial 0: taken over, goes on after epoch {second['resumed_epoch']}"
    assert text in [event.text for event in events]


@pytest.mark.e2e
def test_a_drained_trial_goes_on_where_it_stood(
    here: Settings, engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    """Given back with its last checkpoint: no epoch is trained twice, no lease is waited for."""
    study = simulated_study(engine, study="drained", trials=1, epochs=8, train=SLOW)
    leaving = start(study)
    in_epoch(engine, study, epoch=2)
    leaving.send(signal.SIGTERM)
    assert leaving.ended() == 0
    done = rows(engine, study)[0].epochs
    events: list[Event] = []
    long = replace(here, lease_s=600.0)  # an expiry would not come within this test
    worker = Worker(long, study.name, device="cpu", watch=events.append)
    assert worker.run().ended == {End.COMPLETE: 1}
    reported = [event.epoch for event in events if event.kind is Kind.EPOCH]
    assert reported == list(range(done + 1, 9))
    first, second = details(engine, study)["attempts"]
    assert (first["how"], second["resumed_epoch"]) == ("released", done)


@pytest.mark.e2e
def test_an_epoch_longer_than_the_grace_is_given_up(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    """The training ends, the trial is given back at its last checkpoint, the worker leaves."""
    study = simulated_study(engine, study="graceless", trials=1, epochs=3, train={"hang_at": 2})
    worker = start(study, "--grace", "4s")
    in_epoch(engine, study)
    children = children_of(worker.process.pid)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert not any(is_running(pid) for pid in children)
    (attempt,) = details(engine, study)["attempts"]
    assert attempt["how"] == "released"
    taken = other_claims(engine, study)
    claim = taken.claim()
    assert isinstance(claim, Claim)
    assert [kept.epoch for kept in taken.checkpoints(claim.trial_id)] == [1]


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.e2e
@pytest.mark.parametrize("bad", [1, pytest.param(2, marks=pytest.mark.faults)])
def test_a_damaged_checkpoint_falls_back_and_says_so(
    here: Settings, engine: Engine, start: Callable[..., WorkerProcess], bad: int
) -> None:
    """To the one before, else to the start; the trial ends as it would have."""
    study = simulated_study(engine, study=f"damaged-{bad}", trials=1, epochs=8, train=SLOW)
    leaving = start(study)
    in_epoch(engine, study, epoch=3)
    leaving.send(signal.SIGTERM)
    assert leaving.ended() == 0
    kept = other_claims(engine, study).checkpoints(1)
    assert len(kept) == 2, "the newest and the one before"
    folder = Path(here.artifacts) / "checkpoints"
    for one in kept[:bad]:
        (file,) = folder.glob(f"*/*/{one.state.sha256}")
        damage(file)
    events: list[Event] = []
    worker = Worker(here, study.name, device="cpu", watch=events.append)
    assert worker.run().ended == {End.COMPLETE: 1}
    expected = kept[1].epoch if bad == 1 else 0
    attempt = details(engine, study)["attempts"][1]
    assert attempt["resumed_epoch"] == expected
    assert f"checkpoint of epoch {kept[0].epoch} not used" in attempt["note"]
    assert "was altered" in attempt["note"]
    assert [e.epoch for e in events if e.kind is Kind.EPOCH] == list(range(expected + 1, 9))
    plain = simulated_study(engine, study=f"plain-{bad}", trials=1, epochs=8)
    Worker(here, plain.name, device="cpu").run()
    assert _figures(engine, study) == _figures(engine, plain)
    assert not list(folder.glob("*/*")), "no checkpoint outlives its trial"


def _figures(engine: Engine, study: Study) -> list[dict[str, Any]]:
    known = ("at", "seconds")
    return [
        {key: value for key, value in row.items() if key not in known}
        for row in details(engine, study)["history"]
    ]


@pytest.mark.e2e
def test_a_paused_worker_writes_nothing_more_and_goes_on_with_another_trial(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    """Stopped past its lease and continued, it finds its trial gone and leaves it alone."""
    study = simulated_study(engine, study="paused", trials=1, epochs=6, train=SLOW)
    paused = start(study)
    in_epoch(engine, study)
    paused.send(signal.SIGSTOP)
    other = other_claims(engine, study)
    wait_until(lambda: isinstance(other.claim(), Claim), "the paused worker's trial is taken over")
    extend(engine, study, 2)
    change = text(
        "select max(e.change) from hpo.epoch e join trials t on t.trial_id = e.trial_id "
        "where t.number = 0"
    )
    with engine.connect() as connection:
        before = connection.scalar(change)
    paused.send(signal.SIGCONT)
    in_epoch(engine, study, trial=1)
    with engine.connect() as connection:
        assert connection.scalar(change) == before, "nothing was written for trial 0"
    assert "trial 0 is no longer this worker's" in paused.said()
    assert rows(engine, study)[0].state == "running"


@pytest.mark.e2e
def test_ctrl_c_leaves_at_the_end_of_the_epoch(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    """The trial is given back, the study can go on, and the exit code says interrupted."""
    study = simulated_study(engine, study="interrupted", trials=3, epochs=60, train=SLOW)
    worker = start(study)
    in_epoch(engine, study)
    worker.send(signal.SIGINT)
    assert worker.ended() == 130
    said = worker.said()
    assert "leaving at the end of this epoch; again to leave now" in said
    assert "This worker ended 0 trials" in said
    assert "Traceback" not in said
    taken = other_claims(engine, study).claim()
    assert isinstance(taken, Claim)
    assert taken.number == 0


def test_sigterm_is_a_wish_that_is_met(engine: Engine, start: Callable[..., WorkerProcess]) -> None:
    """A supervisor that asks a worker to leave sees exit code 0."""
    study = simulated_study(engine, study="terminated", trials=3, epochs=60, train=SLOW)
    worker = start(study)
    in_epoch(engine, study)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert isinstance(other_claims(engine, study).claim(), Claim)


@pytest.mark.e2e
def test_a_second_ctrl_c_leaves_now(engine: Engine, start: Callable[..., WorkerProcess]) -> None:
    """In the middle of an epoch that does not end, with 130, and the trial given back."""
    study = simulated_study(engine, study="now", trials=3, epochs=3, train={"hang_at": 2})
    worker = start(study)
    in_epoch(engine, study)
    worker.send(signal.SIGINT)
    wait_until(lambda: "again to leave now" in worker.said(), "the first one is heard")
    worker.send(signal.SIGINT)
    assert worker.ended() == 130
    assert "Traceback" not in worker.said()
    taken = other_claims(engine, study).claim()
    assert isinstance(taken, Claim)
    assert (taken.number, taken.takeovers) == (0, 1)


def small_disks_can_be_made() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.fixture
def small_disk(
    here: Settings, engine: Engine
) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], Path]]]:
    """Starts a worker of the study `full` whose artifacts lie on a disk of 256 kB.

    It gives the process, and the disk as seen from outside.
    """
    del engine
    (disk := here.home.parent / "disk").mkdir()
    log = here.home.parent / "worker-full.log"
    started: list[subprocess.Popen[bytes]] = []
    script = (
        'mount -t tmpfs -o size=256k tmpfs "$HPO_ARTIFACTS" && mkdir "$HPO_ARTIFACTS/objects" && '
        'exec "$0" worker --study full --device cpu'
    )
    env = os.environ | {
        "HPO_STORAGE": str(here.storage), "HPO_HOME": str(here.home), "HPO_ARTIFACTS": str(disk),
        "MLFLOW_TRACKING_URI": str(here.tracking_uri), "HPO_LEASE_S": "2",
    }  # fmt: skip

    def start() -> tuple[subprocess.Popen[bytes], Path]:
        with log.open("wb") as output:
            started.append(
                subprocess.Popen(
                    ["unshare", "-rm", "sh", "-c", script, HPO], env=env, cwd=here.home.parent,
                    stdout=output, stderr=output,
                )
            )  # fmt: skip
        return started[-1], Path(f"/proc/{started[-1].pid}/root{disk}")

    yield start
    for process in started:
        process.kill()
        process.wait()


def warnings_of(engine: Engine, study: Study) -> str:
    return " ".join(status(engine, study)["warnings"])


def fill(disk: Path) -> Path:
    """Leave no byte."""
    filled = disk / "filled"
    with suppress(OSError), filled.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    return filled


@pytest.mark.e2e
@pytest.mark.skipif(
    not small_disks_can_be_made(), reason="this machine lets no user mount a small disk"
)
def test_a_full_store_costs_no_epoch_and_the_end_waits_for_it(
    engine: Engine, small_disk: Callable[[], tuple[subprocess.Popen[bytes], Path]]
) -> None:
    """Training goes on without checkpoints and says so; weights are kept once there is room."""
    study = simulated_study(engine, study="full", trials=1, epochs=8, train=SLOW)
    process, disk = small_disk()
    in_epoch(engine, study)
    filled = fill(disk)
    wait_until(
        lambda: (
            "checkpoints are not stored, training goes on: no space left"
            in warnings_of(engine, study)
        ),
        "status says that checkpoints are not stored",
    )
    in_epoch(engine, study, epoch=8)
    wait_until(lambda: "trial 0 waits" in warnings_of(engine, study), "the end waits")
    assert rows(engine, study)[0].state == "running"
    filled.unlink()
    assert process.wait(timeout=60) == 0
    (row,) = rows(engine, study)
    assert (row.state, row.epochs, row.takeovers) == ("complete", 8, 0)


@pytest.mark.e2e
@pytest.mark.skipif(
    not small_disks_can_be_made(), reason="this machine lets no user mount a small disk"
)
def test_a_worker_that_waits_for_a_full_store_can_leave(
    engine: Engine, small_disk: Callable[[], tuple[subprocess.Popen[bytes], Path]]
) -> None:
    """Asked to leave, it gives the trial back: another worker may reach a store with room."""
    study = simulated_study(engine, study="full", trials=1, epochs=3, train=SLOW)
    process, disk = small_disk()
    in_epoch(engine, study)
    fill(disk)
    wait_until(lambda: "trial 0 waits" in warnings_of(engine, study), "the end waits")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    taken = other_claims(engine, study).claim()
    assert isinstance(taken, Claim)
    assert (taken.number, taken.takeovers) == (0, 1)
