"""`hpo up`, `hpo down` and `hpo env` as a user runs them, on real MLflow and optuna-dashboard."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import support.command_line
from sqlalchemy.engine import make_url
from support.command_line import HPO

from hpo.host.processes import any_free
from hpo.services.processes import stop_services
from hpo.storage.postgres import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator


class Project(support.command_line.Project):
    """A folder in which services are started and looked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.home = folder / ".hpo"

    def hpo(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `hpo WORDS`, whatever it exits with."""
        return subprocess.run(
            [HPO, *words], cwd=self.folder, env=self.env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def up(self, *words: str) -> Any:
        """`hpo up` on ports that no other test uses."""
        ports = ("--mlflow-port", str(any_free()), "--dashboard-port", str(any_free()))
        return self.json("up", *ports, *words)

    def processes(self) -> list[psutil.Process]:
        """Every process started for this project, whatever it is."""
        found = []
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                if str(self.folder) in words or process.cwd().startswith(str(self.home)):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@pytest.fixture
def empty_project(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> Iterator[Project]:
    """A folder without a project; what runs in it is stopped afterwards."""
    del clean_env
    project = Project(tmp_path)
    yield project
    stop_services(project.home)
    embedded.stop(project.home)
    shutil.rmtree(project.home, ignore_errors=True)


@pytest.fixture
def project(home: Path, empty_project: Project) -> Project:
    """A folder with a project, in which nothing runs yet."""
    assert home == empty_project.home
    return empty_project


def get(address: str, path: str, body: Any = None) -> bytes:
    """What the address answers, which must be 200; with a body it is posted as JSON."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return text
    finally:
        connection.close()


@pytest.mark.e2e
def test_up_shows_everything_and_down_leaves_nothing(empty_project: Project) -> None:
    """Both pages open; no process or log shows a password; twice changes nothing; down ends all."""
    project = empty_project
    first = project.up()
    mlflow, dashboard = first["mlflow"], first["dashboard"]
    assert b"<title>MLflow</title>" in get(mlflow["address"], "/")
    assert b"Optuna Dashboard" in get(dashboard["address"], "/dashboard/")
    assert json.loads(get(dashboard["address"], "/api/studies")) == {"study_summaries": []}

    variables = project.json("env")
    assert variables["MLFLOW_TRACKING_URI"] == mlflow["address"]
    password = make_url(variables["HPO_STORAGE"]).password
    assert password
    family = project.processes()
    assert {mlflow["pid"], dashboard["pid"]} <= {process.pid for process in family}
    for process in family:
        assert password not in " ".join(process.cmdline())
    for file in (*(project.home / "logs").iterdir(), project.home / "services.json"):
        assert password not in file.read_text()

    again = project.json("up")
    assert [again[name]["pid"] for name in ("mlflow", "dashboard")] == [
        mlflow["pid"],
        dashboard["pid"],
    ]
    assert not again["mlflow"]["started"]

    assert project.json("down") == {"stopped": ["mlflow", "dashboard", "postgresql"]}
    assert project.processes() == []
    assert project.json("down") == {"stopped": []}


@pytest.mark.cluster
def test_mlflow_shows_files_that_were_written_directly(project: Project) -> None:
    """A run's file, written into HPO_ARTIFACTS without the server, is served over HTTP."""
    mlflow = project.up("--no-dashboard")["mlflow"]["address"]
    experiment = json.loads(get(mlflow, "/api/2.0/mlflow/experiments/create", {"name": "mine"}))
    new = {"experiment_id": experiment["experiment_id"]}
    run = json.loads(get(mlflow, "/api/2.0/mlflow/runs/create", new))["run"]["info"]
    folder = Path(run["artifact_uri"].removeprefix("file://"))
    assert folder.is_relative_to(project.home / "artifacts" / "mlflow")
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("seen")
    listed = json.loads(get(mlflow, f"/api/2.0/mlflow/artifacts/list?run_id={run['run_id']}"))
    assert [file["path"] for file in listed["files"]] == ["note.txt"]
    assert get(mlflow, f"/get-artifact?path=note.txt&run_uuid={run['run_id']}") == b"seen"


@pytest.mark.e2e
def test_a_given_server_is_used_and_left_running(
    empty_project: Project, empty_database_url: str
) -> None:
    """With HPO_STORAGE the tables are made there, nothing private starts, and down leaves it."""
    project = empty_project
    project.env["HPO_STORAGE"] = empty_database_url
    standing = project.up("--no-mlflow")
    assert standing["postgresql"]["private"] is False
    assert "mlflow" not in standing
    assert json.loads(get(standing["dashboard"]["address"], "/api/studies"))
    assert not (project.home / "postgres").exists()
    password = make_url(empty_database_url).password
    for process in project.processes():
        assert str(password) not in " ".join(process.cmdline())
    assert project.json("down") == {"stopped": ["dashboard"]}
    assert project.json("up", "--no-mlflow", "--no-dashboard")["postgresql"]["private"] is False


def test_a_taken_port_is_said(project: Project) -> None:
    """Asked for by name it is refused; as the default it is passed over."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = project.hpo("up", "--no-mlflow", "--dashboard-port", str(port))
        assert refused.returncode == 2
        assert f"port {port} for optuna-dashboard is taken" in refused.stderr
    assert project.json("down") == {"stopped": ["postgresql"]}


def test_a_running_service_keeps_its_port(project: Project) -> None:
    """Asked to be somewhere else, it says where it is and how to move it."""
    port = project.up("--no-mlflow")["dashboard"]["address"].rpartition(":")[2]
    refused = project.hpo("up", "--no-mlflow", "--dashboard-port", str(any_free()))
    assert refused.returncode == 2
    assert f"runs already at http://127.0.0.1:{port}" in refused.stderr
    assert "hpo down" in refused.stderr


def test_a_killed_service_is_started_again(project: Project) -> None:
    """What died is not reported as running, and up brings it back."""
    pid = project.up("--no-mlflow")["dashboard"]["pid"]
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([process for process in project.processes() if process.pid == pid])
    again = project.json("up", "--no-mlflow")["dashboard"]
    assert again["started"]
    assert again["pid"] != pid


def test_a_service_that_does_not_start_says_why(project: Project) -> None:
    """Its last words stand in the message, and nothing of it is left."""
    project.json("up", "--no-mlflow", "--no-dashboard")
    (project.home / "artifacts").write_text("a file where a folder should be")
    failed = project.hpo("up", "--no-mlflow", "--dashboard-port", str(any_free()))
    assert failed.returncode == 3
    assert "optuna-dashboard ended while starting" in failed.stderr
    assert "File exists" in failed.stderr or "Not a directory" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert project.json("down") == {"stopped": ["postgresql"]}


@pytest.mark.e2e
def test_env_needs_a_project_and_its_variables_work(empty_project: Project) -> None:
    """Without a project a usage error; with one, variables of a server that runs."""
    project = empty_project
    refused = project.hpo("env")
    assert refused.returncode == 2
    assert "hpo create-study" in refused.stderr
    assert not project.home.exists()

    project.json("up", "--no-mlflow", "--no-dashboard")
    project.json("down")
    script = f'eval "$("{HPO}" env)" && echo "$HPO_STORAGE|$MLFLOW_TRACKING_URI|$OPTUNA_STORAGE"'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=project.folder,
        env=project.env,
        capture_output=True,
        text=True,
        check=False,
    )
    storage, tracking, optuna = done.stdout.strip().split("|")
    assert storage == optuna
    assert tracking == f"{storage}_mlflow"
    assert embedded.status(project.home).pid is not None
    # With its own address in HPO_STORAGE the private server is still started and stopped by us.
    project.env["HPO_STORAGE"] = storage
    assert project.json("down") == {"stopped": ["postgresql"]}
    assert project.json("list") == []
    assert project.json("down") == {"stopped": ["postgresql"]}


def test_down_in_an_empty_folder_is_no_error(empty_project: Project) -> None:
    """Nothing runs: said, exit 0, and no folder is made."""
    project = empty_project
    done = project.hpo("down")
    assert done.returncode == 0
    assert "Nothing runs here" in done.stdout
    assert not project.home.exists()
