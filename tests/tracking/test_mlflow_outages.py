"""A real worker and a real MLflow that is away, slow, failing or emptied: no trial takes notice."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from faults.http_proxy import NONE, Fault, HttpProxy
from sqlalchemy import text
from support.command_line import HPO, PREFIXES, wait_for
from support.mlflow_server import MlflowServer
from support.studies import Bench, simulated_spec

from hpo.storage.artifacts.opening import open_store
from hpo.studies.spec import Promotion
from hpo.studies.store import store_study
from hpo.tracking.mirror_thread import MirrorThread
from hpo.tracking.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine
    from support.mlflow_server import Emptied

    from hpo.settings import Settings

TRIALS = 5
AWAY = Fault(refuse=True)


@pytest.fixture(scope="module")
def server(mlflow_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One MLflow server for the tests that do not stop it; each has a proxy of its own."""
    one = MlflowServer(mlflow_url, tmp_path_factory.mktemp("mlflow"))
    one.start()
    yield one
    one.stop()


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[HttpProxy]:
    """The way to the server."""
    with HttpProxy(server.url) as one:
        yield one


class Run:
    """A stored study, and the real command line on it."""

    def __init__(self, engine: Engine, settings: Settings, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.name = f"outage-{uuid.uuid4().hex[:8]}"
        spec = simulated_spec(
            study=self.name, trials=TRIALS, train={"epoch_s": 0.05},
            promotion=Promotion(model=f"detector-{self.name}", alias="champion"),
        )  # fmt: skip
        store_study(engine, spec, fingerprint=None, code_version="simulated 1")
        settings.home.mkdir(exist_ok=True)
        open_store(settings).require_writable()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
        self.env = inherited | {
            "HPO_STORAGE": str(settings.storage),
            "HPO_HOME": str(settings.home),
            "MLFLOW_TRACKING_URI": str(settings.tracking_uri),
            "HPO_STUDY": self.name,
        }
        self._log = folder / "worker.log"

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """A worker, with its output in a file."""
        with self._log.open("wb") as output:
            return subprocess.Popen(
                [HPO, "worker", "--device", "cpu", *options], env=self.env, cwd=self.folder,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def said(self) -> str:
        """What the worker said."""
        return self._log.read_text()

    def hpo(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end; its stdout."""
        done = subprocess.run(
            [HPO, *arguments], env=self.env, cwd=self.folder, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout

    def ended(self) -> int:
        """Trials told so far."""
        with self.engine.connect() as connection:
            count = connection.scalar(
                text("select count(*) from hpo.lease where told_at > '-infinity'")
            )
        return int(count or 0)

    def wait_for_ended(self, least: int, worker: subprocess.Popen[bytes]) -> None:
        """Wait until so many trials are told, or the worker has left."""
        wait_for(
            lambda: self.ended() >= least or worker.poll() is not None, f"{least} trials ended"
        )
        assert self.ended() >= least, self.said()

    def states(self) -> list[str]:
        """Every trial's state, by number."""
        with self.engine.connect() as connection:
            found = connection.scalars(
                text("select t.state::text from trials t join hpo.study h using (study_id) "
                     "where h.parent_id is null order by t.number")
            )  # fmt: skip
            return list(found)

    def reconciled(self) -> None:
        """`hpo mirror sync` and `verify` prove that MLflow equals PostgreSQL, one run a trial."""
        self.hpo("mirror", "sync")
        finals = f"{self.name}/finals"
        runs = TRIALS + 1 + len(json.loads(self.hpo("trials", "--json", "--study", finals))) + 1
        assert self.hpo("mirror", "verify") == f"{self.name}: {runs} runs equal\n"


@pytest.fixture
def run(engine: Engine, settings: Settings, proxy: HttpProxy, tmp_path: Path) -> Run:
    """A study whose MLflow is behind the proxy."""
    return Run(engine, replace(settings, tracking_uri=proxy.url), tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("until_1", "until_3", "to_the_end"),
    [
        pytest.param(AWAY, NONE, NONE, id="away at the start"),
        pytest.param(NONE, AWAY, NONE, id="away in between"),
        pytest.param(NONE, NONE, AWAY, id="away at the end"),
        pytest.param(NONE, Fault(status=500), Fault(status=503), id="answers 500 and 503"),
        pytest.param(*[Fault(cut=True, share=0.3)] * 3, id="a third of its answers are lost"),
    ],
)
def test_no_trial_notices_an_outage_and_mlflow_is_whole_afterwards(
    run: Run, proxy: HttpProxy, until_1: Fault, until_3: Fault, to_the_end: Fault
) -> None:
    """The budget is exact, nothing fails, and the worker says how far MLflow is behind."""
    proxy.fault = until_1
    with run.start() as worker:
        for ended, fault in ((1, until_3), (3, to_the_end)):
            run.wait_for_ended(ended, worker)
            if fault is not proxy.fault:
                proxy.fault = fault
        assert worker.wait(300) == 0, run.said()
    assert run.states() == ["COMPLETE"] * TRIALS
    if to_the_end is AWAY:
        assert "behind; `hpo mirror sync" in run.said()
        assert "not promoted" in run.said()
    proxy.fault = NONE
    run.reconciled()
    assert "romoted trial" in run.hpo("finalize")  # or already promoted, by the worker


@pytest.mark.faults
def test_training_waits_for_no_answer_of_mlflow(run: Run, proxy: HttpProxy) -> None:
    """All trials end, and the worker leaves, while an MLflow that hangs has not answered once."""
    run.env["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "3"
    proxy.fault = Fault(delay_s=3600)
    with run.start() as worker:
        assert worker.wait(300) == 0, run.said()
    assert run.states() == ["COMPLETE"] * TRIALS
    assert f"MLflow is {TRIALS + 1} runs behind" in run.said()
    # Once for the study, once for its finals
    assert run.said().count("nothing reaches MLflow") == 2
    assert "it does not answer in time" in run.said()
    proxy.fault = NONE
    run.reconciled()


@pytest.mark.faults
def test_a_slow_mlflow_is_caught_up_with(run: Run, proxy: HttpProxy) -> None:
    """Each call delayed: the worker ends its trials, and what is left is left to `sync`."""
    proxy.fault = Fault(delay_s=0.2)
    with run.start() as worker:
        assert worker.wait(300) == 0, run.said()
    assert run.states() == ["COMPLETE"] * TRIALS
    proxy.fault = NONE
    run.reconciled()


@pytest.mark.faults
def test_a_worker_asked_to_leave_does_not_wait_for_a_dead_mlflow(
    run: Run, proxy: HttpProxy
) -> None:
    """SIGTERM with MLflow hanging: it leaves, its trial can be taken over, and a next one ends."""
    proxy.fault = Fault(delay_s=3600)
    with run.start() as worker:
        run.wait_for_ended(1, worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 0, run.said()
    assert "behind" in run.said()
    proxy.fault = NONE
    with run.start() as worker:
        assert worker.wait(300) == 0, run.said()
    assert run.states() == ["COMPLETE"] * TRIALS
    run.reconciled()


@pytest.mark.faults
def test_status_says_why_mlflow_is_behind(run: Run, proxy: HttpProxy) -> None:
    """The reason is there while MLflow is behind, and gone afterwards."""
    proxy.fault = AWAY
    with run.start("--n-trials", "1") as worker:
        assert worker.wait(300) == 0, run.said()
    mirror = json.loads(run.hpo("status", "--json"))["mirror"]
    assert (mirror["behind"], proxy.url in mirror["error"]) == (2, True)
    assert "Connection refused" in run.hpo("status")
    proxy.fault = NONE
    run.hpo("mirror", "sync")
    assert json.loads(run.hpo("status", "--json"))["mirror"] == {"behind": 0, "error": None}


@pytest.fixture
def served(engine: Engine, settings: Settings, proxy: HttpProxy, tmp_path: Path) -> Iterator[Bench]:
    """A bench whose MLflow is behind the proxy."""
    bench = Bench(engine, replace(settings, tracking_uri=proxy.url), tmp_path)
    yield bench
    bench.close()


def test_closing_is_over_in_its_time_although_mlflow_hangs(
    served: Bench, proxy: HttpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The flush, the count of what is behind and the thread's end all fit into the time given."""
    proxy.fault = Fault(delay_s=3600)
    served.trial(0.1)
    thread = MirrorThread(served.settings, served.study)
    wait_for(lambda: proxy.seen, "MLflow was asked")
    assert thread.close(timeout_s=1.0) is False
    assert f"MLflow is 2 runs behind; `hpo mirror sync --study {served.study.name}`" in caplog.text


def test_answers_of_500_are_an_outage_told_once_and_no_refusal(
    served: Bench, proxy: HttpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Not each trial is complained of, none is given up, and it goes on by itself."""
    caplog.set_level(logging.WARNING, "hpo")
    for value in (0.1, 0.2, 0.3):
        served.trial(value)
    proxy.fault = Fault(status=500, share=0.5)
    with MirrorThread(served.settings, served.study) as thread:
        look = served.mirror()
        thread.flush(timeout_s=5)
        proxy.fault = NONE
        wait_for(lambda: look.pending_count() == 0, "MLflow has caught up")
    assert "lacks a trial" not in caplog.text
    assert caplog.text.count("it answers 500") <= 1
    assert verify(served.engine, served.client(), served.study.study_id).differences == []


@pytest.mark.parametrize("call", ["runs/create", "experiments/create", "runs/log-batch", "PUT"])
def test_an_answer_that_is_lost_makes_nothing_twice(
    served: Bench, proxy: HttpProxy, call: str
) -> None:
    """The call is done at MLflow and its answer cut: the next attempt finds what it left."""
    served.trial(0.1, 0.2)
    proxy.fault = Fault(cut=True, share=0.5, only=call)
    with MirrorThread(served.settings, served.study):
        look = served.mirror()
        wait_for(lambda: look.pending_count() == 0, "MLflow has caught up")
    assert any(call in request for request in proxy.seen)
    proxy.fault = NONE
    assert len(served.runs()) == 2
    assert verify(served.engine, served.client(), served.study.study_id).differences == []


def test_a_run_whose_creation_came_too_late_is_removed(served: Bench) -> None:
    """A call that was given up and done later leaves a second run: `sync` removes it."""
    served.trial(0.1)
    mirror = served.mirror()
    mirror.sync_study()
    client = served.client()
    for run in served.runs():
        tags = {key: text for key, text in run.data.tags.items() if key.startswith("hpo.")}
        client.create_run(run.info.experiment_id, start_time=run.info.start_time, tags=tags)
    assert len(served.runs()) == 4
    mirror.sync_study()
    assert len(served.runs()) == 2
    assert verify(served.engine, served.client(), served.study.study_id).differences == []


@pytest.mark.parametrize("emptied", ["direct"], indirect=True)
@pytest.mark.faults
def test_no_trial_notices_that_mlflow_s_own_database_is_away(
    engine: Engine, settings: Settings, emptied: Emptied, tmp_path: Path
) -> None:
    """Reached directly, away at the start and at the end: told, counted and caught up with."""
    run = Run(engine, replace(settings, tracking_uri=emptied.uri), tmp_path)
    emptied.refuse(refused=True)
    with run.start() as worker:
        for ended, refused in ((1, False), (3, True)):
            run.wait_for_ended(ended, worker)
            emptied.refuse(refused=refused)
        assert worker.wait(300) == 0, run.said()
    assert run.states() == ["COMPLETE"] * TRIALS
    assert "nothing reaches MLflow for now" in run.said()
    assert "behind; `hpo mirror sync" in run.said()
    emptied.refuse(refused=False)
    run.reconciled()
