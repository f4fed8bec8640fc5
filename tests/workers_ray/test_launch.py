"""`hpo launch` on Ray as a user meets it: existing clusters, far nodes, Ctrl-C, no passwords."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import TYPE_CHECKING

import psutil
import pytest
from sqlalchemy.engine import make_url
from support.command_line import HPO, Project, free_port, wait_for
from support.ray_nodes import ray_head, ray_node

if TYPE_CHECKING:
    from collections.abc import Iterator

STUDY = """
study: pretended
trainer: simulated
search_space: simulated
budget: {trials: 6, epochs: 4}
pruner: none
train: {epoch_s: 0.2}
"""


def make_study(project: Project, **changes: str) -> None:
    (project.folder / "hpo.yaml").write_text(STUDY)
    given = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    project.run("create-study", *given)


@pytest.fixture
def head(project: Project) -> Iterator[str]:
    """The address of a cluster of one node."""
    with ray_head(project) as address:
        yield address


@pytest.mark.cluster
def test_an_existing_cluster_runs_the_study_and_no_password_travels(
    project: Project, database_url: str
) -> None:
    """Actors read their node's HPO_STORAGE; no argument and no log of Ray's holds the password."""
    password = make_url(database_url).password
    assert password
    project.env |= {"HPO_STORAGE": database_url}
    make_study(project)
    # Ray puts sockets there, whose paths may not be as long as a test's folder is
    with (
        tempfile.TemporaryDirectory() as short,
        ray_head(project, f"--temp-dir={short}") as address,
    ):
        launched = project.start("launch", "--address", address)
        seen: set[str] = set()
        try:
            while launched.poll() is None:
                seen |= {word for one in psutil.process_iter(["cmdline"]) for word in words_of(one)}
                time.sleep(0.3)
        finally:
            launched.kill()
            launched.wait()
        logs = [file for file in Path(short).rglob("*") if file.suffix in (".log", ".out", ".err")]
        assert logs
        assert not [file for file in logs if password in file.read_text(errors="replace")]
    assert launched.returncode == 0, project.logs()
    assert project.json("status")["counts"]["complete"] == 6
    assert not [word for word in seen if password in word]
    assert password not in project.logs()


def words_of(one: psutil.Process) -> list[str]:
    return [str(word) for word in one.info["cmdline"] or []]


def name_of(one: psutil.Process) -> str:
    """Its name; nothing for one that has ended by now."""
    try:
        return one.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.cluster
def test_far_nodes_with_the_private_postgresql_are_refused(project: Project, head: str) -> None:
    """A node that cannot reach this machine's private server: exit 2, saying what to set."""
    make_study(project)
    with ray_node(project, f"--address={head}", "--node-ip-address=127.0.0.77"):
        done = subprocess.run(
            [HPO, "launch", "--address", head],
            cwd=project.folder, env=project.env, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "127.0.0.77" in done.stderr
    assert "HPO_STORAGE" in done.stderr
    assert project.json("status")["budget"]["claimed"] == 0


@pytest.mark.e2e
def test_a_cluster_that_is_not_there_is_said_so(project: Project) -> None:
    """Exit 3 within seconds, with the address and the way out; nothing stays in the background."""
    make_study(project)
    nowhere = f"127.0.0.1:{free_port()}"
    project.run("launch", "--address", nowhere, code=3, timeout_s=60)
    said = project.run("launch", "--detach", "--address", nowhere, code=3, timeout_s=60)
    assert "background" not in said
    assert not list((project.folder / ".hpo").glob("background/*"))


@pytest.mark.cluster
def test_ctrl_c_leaves_the_study_resumable(project: Project) -> None:
    """The first Ctrl-C ends the epochs, exit 130; a second launch ends with the exact budget."""
    make_study(project, **{"train.epoch_s": "1.0"})
    launched = project.start("launch", "--workers", "2")
    try:
        wait_for(lambda: project.json("status")["counts"]["running"] == 2, "two running trials")
        os.kill(launched.pid, SIGINT)
        assert launched.wait(timeout=120) == 130, project.logs()
    finally:
        launched.kill()
        launched.wait()
    status = project.json("status")
    assert (status["state"], status["workers"]) == ("open", [])
    project.run("launch", "--workers", "2")
    status = project.json("status")
    assert (status["state"], status["counts"]["complete"]) == ("finished", 6)


@pytest.mark.cluster
def test_a_second_signal_leaves_nothing(project: Project) -> None:
    """Exit 130 in mid-epoch; workers, training processes and the private Ray are gone."""
    make_study(project, **{"train.epoch_s": "2.0"})
    launched = project.start("launch", "--workers", "1")
    try:
        wait_for(lambda: project.json("status")["counts"]["running"], "a running trial")
        started = psutil.Process(launched.pid).children(recursive=True)
        os.kill(launched.pid, SIGTERM)
        wait_for(lambda: "again to leave now" in project.logs(), "the first is heard")
        os.kill(launched.pid, SIGTERM)
        assert launched.wait(timeout=60) == 130, project.logs()
    finally:
        launched.kill()
        launched.wait()
    assert len(started) >= 5
    assert psutil.wait_procs(started, timeout=20)[1] == []


@pytest.mark.cluster
def test_a_start_that_is_interrupted_leaves_nothing(project: Project) -> None:
    """Ctrl-C while Ray starts: exit 130, and none of Ray's processes runs on."""
    make_study(project)
    launched = project.start("launch", "--workers", "1")
    started: list[psutil.Process] = []

    def raylet_started() -> bool:
        started[:] = psutil.Process(launched.pid).children(recursive=True)
        return any(name_of(one) == "raylet" for one in started)

    try:
        wait_for(raylet_started, "a raylet")
        os.kill(launched.pid, SIGINT)
        assert launched.wait(timeout=60) == 130, project.logs()
    finally:
        launched.kill()
        launched.wait()
    assert psutil.wait_procs(started, timeout=20)[1] == []


@pytest.mark.cluster
def test_a_restarted_actor_counts_on(project: Project) -> None:
    """--n-trials 3 is three trials of that worker, although it was killed after the first."""
    make_study(project, **{"train.epoch_s": "0.5"})
    launched = project.start("launch", "--workers", "1", "--n-trials", "3")
    try:
        wait_for(lambda: project.json("status")["counts"]["complete"] == 1, "an ended trial")
        os.kill(int(project.json("status")["workers"][0]["worker"].partition(":")[2]), SIGKILL)
        assert launched.wait(timeout=180) == 0, project.logs()
    finally:
        launched.kill()
        launched.wait()
    status = project.json("status")
    assert (status["state"], status["counts"]["complete"]) == ("open", 3)
    assert {trial["takeovers"] for trial in project.json("trials")[:3]} <= {0, 1}


@pytest.mark.cluster
def test_a_detached_launch_goes_on_and_down_ends_it(project: Project) -> None:
    """`--detach` returns at once; `hpo down` lets the epochs end and leaves nothing running."""
    make_study(project, **{"train.epoch_s": "1.0"})
    project.run("launch", "--detach", "--workers", "1")
    wait_for(lambda: project.json("status")["counts"]["running"], "a running trial")
    assert "launch-pretended" in project.json("down")["stopped"]
    home = str(project.folder / ".hpo")
    left = [
        one for one in psutil.process_iter(["cmdline"]) if any(home in w for w in words_of(one))
    ]
    assert left == []
