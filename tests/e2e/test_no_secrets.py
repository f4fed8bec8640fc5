"""No password, key or token leaves the environment: the whole job, and then a search for each."""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from faults.tcp_proxy import TcpProxy
from sqlalchemy.engine import make_url
from support.command_line import HPO, Project, free_port, wait_for
from support.mlflow_server import MlflowServer
from support.ray_nodes import ray_head, ray_node
from support.secrets import USER, LoginProxy, Marks, Role, Watched, new_role, objects_with_marks

from hpo.storage.postgres.url import database_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.s3_server import S3Server

pytestmark = pytest.mark.cluster  # whole jobs

STUDY = """
study: {name}
trainer: simulated
search_space: simulated
budget: {{trials: {trials}, epochs: 4}}
pruner: none
train: {{epoch_s: 0.3}}
"""
SECRET = ("HPO_STORAGE", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_URI",
          "MLFLOW_TRACKING_PASSWORD")  # fmt: skip
# Shows passwords where they are meant to be hidden: the planted leak
LEAK = """
import hpo.storage.postgres.url
hpo.storage.postgres.url.mask = lambda url: url
"""


class Spoken(Project):
    """A project whose commands are kept with all that they said."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        super().__init__(folder)
        self.env |= env
        self.said: list[tuple[str, bytes]] = []

    def say(self, *words: str, code: int | None = 0, **env: str) -> bytes:
        """Run `hpo WORDS`, keep what it says on both streams; `code` None: any."""
        done = subprocess.run(
            [HPO, *words], cwd=self.folder, env=self.env | env, capture_output=True, timeout=300,
            check=False,
        )  # fmt: skip
        text = done.stdout + done.stderr
        self.said.append((f"hpo {' '.join(words)} {sorted(env)}", text))
        assert code in (None, done.returncode), (words, done.returncode, text.decode())
        return text

    def leaks(self, marks: Marks) -> dict[str, set[str]]:
        """What was said, and what lies in the project's folder: where -> which secrets."""
        told = {name: marks.found_in(text) for name, text in self.said}
        return {name: held for name, held in told.items() if held} | marks.found_below(self.folder)


@pytest.fixture
def marks() -> Marks:
    """A secret for everything that has one, and a word that is none, to see that things travel."""
    return Marks("database", "wrong", "s3", "session", "mlflow")


@pytest.fixture
def role(postgres_url: str, marks: Marks) -> Iterator[Role]:
    """A role with a marked password."""
    yield from new_role(postgres_url, marks.secret("database"))


def test_messages_and_files_hold_no_password(tmp_path: Path, role: Role, marks: Marks) -> None:
    """What works and what fails, with tracebacks: not a word of the password."""
    project = Spoken(tmp_path, {"HPO_STORAGE": role.url(marks.quoted("database"))})
    up_and_down(project)
    fail_on_purpose(project, role, marks)
    assert project.leaks(marks) == {}
    assert marks.found_in(project.say("env")) == {"database"}  # by design, and the search sees it


def test_a_planted_leak_is_seen(tmp_path: Path, role: Role, marks: Marks) -> None:
    """With passwords shown where they are hidden, the same commands and search find them."""
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(LEAK)
    (tmp_path / "project").mkdir()
    env = {"HPO_STORAGE": role.url(marks.quoted("database")), "PYTHONPATH": str(planted)}
    project = Spoken(tmp_path / "project", env)
    up_and_down(project)
    found = project.leaks(marks)
    assert {"database"} <= set().union(*found.values())
    assert any(place.startswith("hpo up") for place in found)
    assert any(place.endswith("services-as-they-were.json") for place in found)


def up_and_down(project: Spoken) -> None:
    """Tables, and a service that leaves files; its record is kept as it was while it ran."""
    project.say("up", "--no-mlflow", "--dashboard-port", str(free_port()))
    stored = (project.folder / ".hpo" / "services.json").read_bytes()
    project.say("down")
    (project.folder / "services-as-they-were.json").write_bytes(stored)


def fail_on_purpose(project: Spoken, role: Role, marks: Marks) -> None:
    """Each wrong address of the database that a person may write, with its traceback."""
    right, wrong = marks.quoted("database"), marks.quoted("wrong")
    for storage in (
        role.url(wrong),
        role.url(right, port=free_port()),
        role.url(marks.plain("database") + "@" + marks.plain("database")),  # an @ not quoted
        role.url(right).replace("127.0.0.1", "no-such-host.invalid"),
        role.url(right) + "_gone",
        role.url(right).partition("//")[2],
        role.url(right).replace("postgresql://", "mysql://"),
        f"host=127.0.0.1 user={role.name} password={marks.plain('database')}",
    ):
        project.say("list", code=None, HPO_STORAGE=storage, HPO_DEBUG="1", HPO_DB_PATIENCE_S="1")
        assert project.said[-1][1].startswith(b"Traceback"), storage
        assert b"hpo: " in project.said[-1][1]


@dataclass(frozen=True)
class Job:
    """A project, the ways to its MLflow and its PostgreSQL, and the name of MLflow's database."""

    project: Spoken
    login: LoginProxy
    way: TcpProxy
    mlflow_database: str


@pytest.fixture
def job(
    tmp_path: Path, role: Role, marks: Marks, s3_server: S3Server, empty_database_url: str
) -> Iterator[Job]:
    """A project whose every service wants a marked secret."""
    served = tmp_path / "served"
    served.mkdir()
    server = MlflowServer(empty_database_url, served)
    port = make_url(role.server).port
    with TcpProxy(lambda: port) as way:
        server.start()
        try:
            with LoginProxy(server.url, marks.secret("mlflow")) as login:
                folder = tmp_path / "project"
                folder.mkdir()
                env = {
                    **s3_server.environment,
                    "AWS_SECRET_ACCESS_KEY": marks.secret("s3"),
                    "AWS_SESSION_TOKEN": marks.secret("session"),
                    "HPO_ARTIFACTS": f"s3://{s3_server.bucket}/lab",
                    "HPO_STORAGE": role.url(marks.quoted("database"), way.port),
                    "MLFLOW_TRACKING_URI": with_login(login, marks),
                }
                yield Job(Spoken(folder, env), login, way, database_name(empty_database_url))
        finally:
            server.stop()


def with_login(login: LoginProxy, marks: Marks, name: str = "mlflow") -> str:
    return login.url.replace("://", f"://{USER}:{marks.quoted(name)}@")


@pytest.mark.timeout(1800)
def test_the_whole_job_leaves_no_secret_anywhere(
    job: Job, role: Role, marks: Marks, s3_server: S3Server, tmp_path: Path
) -> None:
    """Everything said, written, stored and sent is searched for every secret.

    Messages, logs, tracebacks, command lines, Ray's folders and its head's memory, both databases,
    MLflow's files (the decision record is among them), the bucket and the exports.
    """
    project, login, way = job.project, job.login, job.way
    witness = Marks("study")
    with tempfile.TemporaryDirectory() as short, Watched() as watched:
        make_study(project, witness.plain("study"), 8)
        worker_with_cut(project, way)
        fail_on_purpose(project, role, marks)
        fail_elsewhere(project, login, marks)
        raising_trial(project)
        project.say("launch", "--workers", "1", "--n-trials", "2", *study(witness))
        on_a_cluster(project, marks, witness, Path(short))
        detached(project)
        look_at_everything(project, witness)
        by_variables(project, login, marks)
        directly(project)
        printed = marks.found_in(project.say("env"))
        project.said.pop()  # the one command whose job it is
        in_ray = marks.found_below(Path(short))
        assert any(file.suffix == ".log" for file in Path(short).rglob("*"))
    assert project.leaks(marks) == {}
    assert in_ray == {}
    assert marks.found_in(b"\n".join(watched.seen)) == set()
    assert witness.found_in(b"\n".join(watched.seen)) == {"study"}  # --study NAME: they were seen
    dumped = role.dump(job.mlflow_database)
    assert marks.found_in(dumped) == set()
    assert witness.found_in(dumped) == {"study"}
    assert len(role.databases()) == 2  # the studies', and MLflow's where no address is named
    assert marks.found_below(tmp_path / "served") == {}
    assert objects_with_marks(s3_server, marks) == {}
    assert printed == {"database", "mlflow"}


def study(witness: Marks) -> tuple[str, str]:
    return ("--study", witness.plain("study"))


def make_study(project: Spoken, name: str, trials: int, *changes: str) -> None:
    (project.folder / "hpo.yaml").write_text(STUDY.format(name=name, trials=trials))
    project.say("create-study", *changes)


def worker_with_cut(project: Spoken, way: TcpProxy) -> None:
    """A worker whose PostgreSQL is away for two seconds, while it trains."""
    worker = project.start("worker", "--n-trials", "2")
    try:
        wait_for(lambda: b"epoch" in project.logs().encode(), "an epoch")
        way.refuse(on=True)
        time.sleep(2)
        way.refuse(on=False)
        assert worker.wait(timeout=120) == 0, project.logs()
    finally:
        worker.kill()
        worker.wait()
    assert "PostgreSQL" in project.logs()  # it said so, in the log that is searched


def fail_elsewhere(project: Spoken, login: LoginProxy, marks: Marks) -> None:
    """Wrong addresses and passwords of MLflow, S3 and the artifacts, with their tracebacks."""
    right, nobody = marks.quoted("mlflow"), f"127.0.0.1:{free_port()}"
    for address in (
        with_login(login, marks, "wrong"),
        f"http://{USER}:{right}@{nobody}",
        f"http://{marks.plain('mlflow')}@{nobody}",  # a token in the user's place
        f"http://{USER}:{marks.plain('mlflow')}@{marks.plain('mlflow')}@{nobody}",
        f"ftp://{USER}:{right}@{nobody}",
    ):
        project.say("mirror", "sync", code=None, MLFLOW_TRACKING_URI=address, HPO_DEBUG="1")
        assert b"MLFLOW" in project.said[-1][1], address
        project.say("doctor", code=1, MLFLOW_TRACKING_URI=address)
    key = marks.quoted("s3")
    for name, value in (
        ("HPO_ARTIFACTS", f"s3://key:{key}@bucket/lab"),
        ("HPO_ARTIFACTS", "s3://no-such-bucket/lab"),
        ("AWS_ENDPOINT_URL", f"http://{nobody}"),
        ("AWS_ENDPOINT_URL", f"http://key:{key}@{nobody}"),
    ):
        project.say("create-study", "--name", "other", code=None, HPO_DEBUG="1", **{name: value})
        assert project.said[-1][1].startswith(b"Traceback"), (name, value)
        project.say("doctor", code=1, **{name: value})


def raising_trial(project: Spoken) -> None:
    """A training that raises, and one that ends with its process."""
    for name, fault in (("raising", "fail_at"), ("dying", "crash_at")):
        make_study(project, name, 1, "--set", f"train.{fault}=2")
        project.say("worker", "--study", name, code=None)
        assert project.json("status", "--study", name)["counts"]["failed"] == 1
        project.say("show", "0", "--study", name)


def on_a_cluster(project: Spoken, marks: Marks, witness: Marks, folder: Path) -> None:
    """A head that knows no secret but Ray's own, and a node that knows them all."""
    everything = project.env
    project.env = {key: value for key, value in everything.items() if key not in SECRET}
    with ray_head(project, f"--temp-dir={folder}", cpus=0) as address:
        token = project.env["RAY_AUTH_TOKEN"]
        marks.add("ray", token)
        project.env = everything | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        with ray_node(project, f"--address={address}", "--node-ip-address=127.0.0.77"):
            words = ("--workers", "1", "--n-trials", "2", *study(witness))
            project.say("launch", "--address", address, *words)
            # All that Ray is told of actors and jobs goes through its head, arguments included
            (head,) = [one for one in psutil.process_iter() if is_gcs_of(one, folder)]
            assert witness.found_in_memory(head.pid) == {"study"}
            assert marks.found_in_memory(head.pid) == {"ray"}


def is_gcs_of(one: psutil.Process, folder: Path) -> bool:
    try:
        return one.name() == "gcs_server" and any(str(folder) in word for word in one.cmdline())
    except psutil.NoSuchProcess:
        return False


def detached(project: Spoken) -> None:
    """A launch in the background that ends what is left, its finals and the promotion too."""
    project.say("launch", "--detach", "--workers", "1", *("--study", newest(project)))


def newest(project: Spoken) -> str:
    return str(next(one["study"] for one in project.json("list") if one["study"][:2] == "mk"))


def look_at_everything(project: Spoken, witness: Marks) -> None:
    """Every command that shows, and every file that a person takes away."""
    wait_for(lambda: project.json("status", *study(witness))["champion"], "a champion")
    project.say("down")
    for words in (
        ("status",), ("status", "--json"), ("trials", "--json"), ("show", "0", "--json"),
        ("mirror", "sync"), ("mirror", "verify"), ("finalize",), ("champion", "--json"),
        ("export", "study.json"), ("export", "study.json.gz"), ("enqueue", "x=0.5"),
    ):  # fmt: skip
        project.say(*words, *study(witness), code=None if words[0] == "enqueue" else 0)
    project.say("doctor")
    up_and_down(project)


def by_variables(project: Spoken, login: LoginProxy, marks: Marks) -> None:
    """The same MLflow, its login in MLflow's own variables."""
    named = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": marks.secret("mlflow"),
             "MLFLOW_TRACKING_URI": login.url}  # fmt: skip
    project.say("mirror", "sync", "--study", newest(project), **named)
    project.say("mirror", "verify", "--study", newest(project), **named)
    wrong = {"MLFLOW_TRACKING_PASSWORD": marks.secret("wrong"), "HPO_DEBUG": "1"}
    project.say("mirror", "sync", "--study", newest(project), code=3, **(named | wrong))


def directly(project: Spoken) -> None:
    """MLflow's tables beside the studies', its files in the bucket; then as before."""
    address = project.env.pop("MLFLOW_TRACKING_URI")
    make_study(project, "direct", 2)
    project.say("worker", "--study", "direct")
    project.say("champion", "--study", "direct")
    project.say("up", "--dashboard-port", str(free_port()), "--mlflow-port", str(free_port()))
    project.say("doctor")
    project.say("down")
    project.env["MLFLOW_TRACKING_URI"] = address
