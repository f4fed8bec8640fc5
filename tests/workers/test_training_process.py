"""The training process: what a failure of the child costs, and who dies with whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from support.training import Recorder, install_trainer, is_running, make_job, wait_until

from hpo.errors import SpecError, TrialError, WeightsError
from hpo.trainer import Directive, Epoch
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A trainer installed beside ours, as a user's own would be
PLUGIN = """
import subprocess, sys, time
from workers.simulated.trainer import SimulatedTrainer

class Trainer(SimulatedTrainer):
    def train(self, job, report):
        job.run_dir.mkdir(parents=True, exist_ok=True)
        what = job.params.get("do")
        if what == "start a process":
            sleeper = subprocess.Popen(["sleep", "600"])
            (job.run_dir / "pid").write_text(str(sleeper.pid))
        if what == "fill memory":
            raise MemoryError("no room")
        if what == "exit":
            sys.exit(3)
        print("words on stdout")
        return super().train(job.__class__(**{**job.__dict__, "params": {}}), report)

    def evaluate(self, weights, job, split):
        if job.params.get("do") == "evaluate for ever":
            job.run_dir.mkdir(parents=True)
            while True:
                time.sleep(1)
        return super().evaluate(weights, job, split)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[TrainingProcess]:
    with TrainingProcess("simulated", tmp_path / "logs") as one:
        yield one


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """Variables that let a child find the plugin trainer."""
    return install_trainer(tmp_path / "plugin", "plugin", PLUGIN)


def test_the_second_training_reuses_the_process(process: TrainingProcess, tmp_path: Path) -> None:
    """A warm child is kept from trial to trial."""
    process.warm()
    pids = []
    for number in range(2):
        process.train(make_job(tmp_path / str(number)), Recorder())
        pids.append(process.pid)
    assert pids[0] == pids[1] != os.getpid()
    assert process.jobs_done == 2


@pytest.mark.parametrize(
    ("train", "reason", "words"),
    [
        ({"fail_at": 2}, "error", "RuntimeError: told to fail at epoch 2"),
        ({"crash_at": 2}, "crashed", "died of SIGSEGV"),
        ({"nan_at": 2}, "diverged", "epoch 2 is NaN"),
        ({"hang_at": 2}, "hung", "the limit is 1 s"),
    ],
)
def test_a_failure_has_its_reason_and_costs_no_later_trial(
    process: TrainingProcess, tmp_path: Path, train: dict[str, int], reason: str, words: str
) -> None:
    """Whatever becomes of the child, the error says it, and the next training works."""
    seen = Recorder()
    stall_s = 1 if "hang_at" in train else None
    with pytest.raises(TrialError, match=words) as caught:
        process.train(make_job(tmp_path / "bad", train=train), seen, stall_timeout_s=stall_s)
    assert caught.value.reason == reason
    assert seen.numbers == [1]
    after = Recorder()
    process.train(make_job(tmp_path / "good"), after)
    assert after.numbers == [1, 2, 3]


def test_a_crash_shows_the_last_words_of_the_child(
    process: TrainingProcess, tmp_path: Path
) -> None:
    """The message of a segfault holds the Python stack that led to it."""
    with pytest.raises(TrialError, match="_misbehave"):
        process.train(make_job(tmp_path / "bad", train={"crash_at": 1}), Recorder())


def test_a_traceback_is_kept_in_the_log(process: TrainingProcess, tmp_path: Path) -> None:
    """The error names the exception; the log has its stack."""
    with pytest.raises(TrialError):
        process.train(make_job(tmp_path / "bad", train={"fail_at": 1}), Recorder())
    assert process.log is not None
    assert "Traceback (most recent call last)" in process.log.read_text()


def test_a_child_killed_by_the_kernel_counts_as_out_of_memory(
    process: TrainingProcess, tmp_path: Path
) -> None:
    """SIGKILL from elsewhere is what the kernel does when memory runs out."""

    def kill_it(epoch: Epoch) -> Directive:
        del epoch
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        return Directive.GO

    with pytest.raises(TrialError, match="likely out of memory") as caught:
        process.train(make_job(tmp_path / "bad"), kill_it)
    assert caught.value.reason == "out_of_memory"


@pytest.mark.parametrize(("what", "reason"), [("fill memory", "out_of_memory"), ("exit", "error")])
def test_what_a_trainer_does_to_its_process_is_a_trial_error(
    tmp_path: Path, plugin: dict[str, str], what: str, reason: str
) -> None:
    """MemoryError and sys.exit end a trial, not the worker."""
    with TrainingProcess("plugin", tmp_path / "logs", plugin) as process:
        with pytest.raises(TrialError) as caught:
            process.train(make_job(tmp_path / "run", params={"do": what}), Recorder())
        assert caught.value.reason == reason
        assert process.train(make_job(tmp_path / "next"), Recorder()).best_epoch is not None


def test_an_exception_of_the_report_reaches_the_caller(
    process: TrainingProcess, tmp_path: Path
) -> None:
    """The training is stopped, the exception goes on, and the process stays warm."""

    def lost(epoch: Epoch) -> Directive:
        raise LookupError(f"lease lost at epoch {epoch.number}")

    process.warm()
    pid = process.pid
    with pytest.raises(LookupError, match="epoch 1"):
        process.train(make_job(tmp_path / "lost"), lost)
    process.train(make_job(tmp_path / "next"), Recorder())
    assert process.pid == pid


def test_a_wish_to_stop_does_not_wait_for_the_epochs_end(
    process: TrainingProcess, tmp_path: Path
) -> None:
    """STOP from `poll` ends an epoch that would never end."""
    seen = Recorder()
    result = process.train(
        make_job(tmp_path / "long", train={"hang_at": 1}), seen, poll=lambda: Directive.STOP
    )
    assert (result.weights, seen.numbers) == (None, [])
    assert process.train(make_job(tmp_path / "next"), Recorder()).best_epoch is not None


def test_an_evaluation_ends_at_once_when_it_is_not_wanted_any_more(
    tmp_path: Path, plugin: dict[str, str]
) -> None:
    """STOP from `poll` ends one that would never end; the next gets a new process."""
    weights = tmp_path / "weights.json"
    weights.write_text('{"quality": 0.5}')
    with TrainingProcess("plugin", tmp_path / "logs", plugin) as process:
        job = make_job(tmp_path / "long", params={"do": "evaluate for ever"})

        def once_begun() -> Directive | None:
            return Directive.STOP if job.run_dir.is_dir() else None

        process.warm()
        pid = process.pid
        assert process.evaluate_unless(weights, job, "test", once_begun) is None
        assert process.pid is None
        assert pid is not None
        assert not is_running(pid)
        after = process.evaluate_unless(weights, make_job(tmp_path / "run"), "test", lambda: None)
        assert after == process.evaluate(weights, make_job(tmp_path / "run"), "test")


def test_an_evaluation_that_may_be_stopped_fails_as_any(
    process: TrainingProcess, tmp_path: Path
) -> None:
    """What the trainer raises is raised, with the process fit for more."""
    job, missing = make_job(tmp_path / "run"), tmp_path / "missing.json"
    process.warm()
    pid = process.pid
    with pytest.raises(WeightsError, match=r"missing\.json"):
        process.evaluate_unless(missing, job, "test", lambda: Directive.GO)
    assert process.pid == pid


def test_nothing_of_the_child_reaches_the_workers_output(
    tmp_path: Path, plugin: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """What a trainer prints is in the log, so that `--json` stays one document."""
    with TrainingProcess("plugin", tmp_path / "logs", plugin) as process:
        process.train(make_job(tmp_path / "run"), Recorder())
        log = process.log
    assert capfd.readouterr() == ("", "")
    assert log is not None
    assert "words on stdout" in log.read_text()


def test_the_child_knows_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of PostgreSQL and MLflow, keys of S3 and Ray's token stay in the worker."""
    monkeypatch.setenv("HPO_STORAGE", "postgresql://u:secret@host/db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:secret@host")
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "HPO_ADMIN_STORAGE", "PGPASSWORD"):
        monkeypatch.setenv(name, "secret")
    with TrainingProcess("simulated", tmp_path / "logs") as process:
        process.warm()
        process.train(make_job(tmp_path / "run"), Recorder())
        with open(f"/proc/{process.pid}/environ", "rb") as environ:  # noqa: PTH123 - /proc
            assert b"secret" not in environ.read()


def test_closing_ends_all_that_the_child_started(tmp_path: Path, plugin: dict[str, str]) -> None:
    """Processes of a training end with the child, and so does its scratch folder."""
    with TrainingProcess("plugin", tmp_path / "logs", plugin) as process:
        job = make_job(tmp_path / "run", params={"do": "start a process"})
        process.train(job, Recorder())
        child, grandchild = process.pid, int((job.run_dir / "pid").read_text())
        assert is_running(grandchild)
    assert child is not None
    wait_until(lambda: not is_running(child) and not is_running(grandchild), "both to end")


def test_the_child_dies_with_a_worker_that_is_killed(
    tmp_path: Path, plugin: dict[str, str]
) -> None:
    """After kill -9 of the worker neither its child nor its child's processes go on."""
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))!r})
        from support.training import make_job, Recorder
        from workers.training_process.client import TrainingProcess
        process = TrainingProcess("plugin", Path({str(tmp_path / "logs")!r}))
        process.warm()
        print(process.pid, flush=True)
        job = make_job(Path({str(tmp_path / "run")!r}), params={{"do": "start a process"}},
                       train={{"hang_at": 1}})
        process.train(job, Recorder())
    """)  # noqa: PTH120, PTH100 - a path inside a text
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, **plugin}
    ) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        note = tmp_path / "run" / "pid"
        wait_until(lambda: note.is_file() and note.read_text() != "", "the training to start")
        grandchild = int(note.read_text())
        assert is_running(child)
        assert is_running(grandchild)
        worker.kill()
    wait_until(lambda: not is_running(child) and not is_running(grandchild), "both to die")


def test_ctrl_c_in_the_terminal_is_the_workers_alone(
    process: TrainingProcess, tmp_path: Path
) -> None:
    """The child is in a session of its own and ignores SIGINT."""
    process.train(make_job(tmp_path / "run"), Recorder())
    assert process.pid is not None
    assert os.getsid(process.pid) != os.getsid(0)

    def interrupt(epoch: Epoch) -> Directive:
        del epoch
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        return Directive.GO

    assert process.train(make_job(tmp_path / "next"), interrupt).best_epoch is not None


def test_errors_of_the_trainer_keep_their_class(process: TrainingProcess, tmp_path: Path) -> None:
    """An HpoError raised in the child is raised here as what it is."""
    path = tmp_path / "weights.json"
    path.write_text("no weights")
    with pytest.raises(WeightsError, match=r"weights\.json"):
        process.evaluate(path, make_job(tmp_path), "val")


def test_an_unknown_trainer_is_named(tmp_path: Path) -> None:
    """The first job fails with what is wrong, not with a dead pipe."""
    with (
        TrainingProcess("simulatd", tmp_path / "logs") as process,
        pytest.raises(SpecError, match="did you mean 'simulated'"),
    ):
        process.train(make_job(tmp_path / "run"), Recorder())
