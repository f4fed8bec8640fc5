"""What listens, and to whom it answers: this machine's loopback alone, unless told otherwise."""

from __future__ import annotations

import http.client
from ipaddress import ip_address
from socket import SOCK_DGRAM
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from support.command_line import free_port, wait_for

from hpo.host.processes import session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.command_line import Project

pytestmark = pytest.mark.cluster  # servers and Ray are started

STUDY = """
study: pretended
trainer: simulated
search_space: simulated
budget: {trials: 1, epochs: 40}
train: {epoch_s: 0.5}
"""


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, bool]]:
    """(program, whether on loopback) of all that waits for connections or datagrams."""
    found = set()
    for process in processes:
        try:
            name, sockets = process.name(), process.net_connections("inet")
        except psutil.NoSuchProcess:
            continue
        for one in sockets:
            if one.status == psutil.CONN_LISTEN or (
                one.laddr and one.type == SOCK_DGRAM and not one.raddr
            ):
                address = ip_address(one.laddr.ip)
                plain = getattr(address, "ipv4_mapped", None) or address
                found.add((name, plain.is_loopback))
    return found


def family(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def answer(address: str, path: str, method: str = "GET", **headers: str) -> int:
    """The status of a request that says of itself what `headers` say."""
    place = address.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    try:
        body = b'{"name": "mine"}' if method == "POST" else None
        sent = {"Host": place, "Content-Type": "application/json", **headers}
        connection.request(method, path, body, sent)
        return connection.getresponse().status
    finally:
        connection.close()


def up(project: Project) -> Any:
    return project.json(
        "up", "--mlflow-port", str(free_port()), "--dashboard-port", str(free_port())
    )


def test_up_listens_on_loopback_and_answers_only_to_its_name(project: Project) -> None:
    """PostgreSQL, MLflow and optuna-dashboard; pages of other sites cannot use a browser here.

    A site may let its name lead to 127.0.0.1 (DNS rebinding), or send a form from its own page.
    """
    standing = up(project)
    pids = [standing[name]["pid"] for name in ("mlflow", "dashboard")]
    postmaster = next(
        one for one in psutil.process_iter(["cmdline"])
        if str(project.folder / ".hpo") in " ".join(one.info["cmdline"] or [])
        and one.name() == "postgres"
    )  # fmt: skip
    started = [one for pid in pids for one in session(pid, 0.0) or family(pid)]
    found = listening([*started, *family(postmaster.pid)])
    assert ("postgres", True) in found
    assert {local for _, local in found} == {True}
    for name, page in (("mlflow", "/api/2.0/mlflow/experiments/search?max_results=1"),
                       ("dashboard", "/api/studies")):  # fmt: skip
        address = standing[name]["address"]
        port = address.rpartition(":")[2]
        assert answer(address, page) == 200
        assert answer(address, page, Host=f"localhost:{port}") == 200
        # The third is within MLflow's own default patterns for private networks
        for host in ("evil.example", f"evil.example:{port}", f"10.evil.example:{port}"):
            assert answer(address, page, Host=host) == 403, (name, host)
    made = "/api/2.0/mlflow/experiments/create"
    mlflow, dashboard = standing["mlflow"]["address"], standing["dashboard"]["address"]
    assert answer(mlflow, made, "POST", Origin="http://evil.example") == 403
    assert answer(mlflow, made, "POST") == 200
    assert answer(dashboard, "/api/studies", "POST", Origin="http://evil.example") == 403
    # The one password on disk
    folder = project.folder / ".hpo" / "postgres"
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "password").stat().st_mode & 0o077 == 0


def test_a_private_ray_listens_on_loopback(project: Project) -> None:
    """The whole family of `hpo launch`, its workers and training processes included.

    Its token, by which one may run code there, is in no file: Ray's own could be read by all.
    """
    project.env["HOME"] = str(project.folder)
    (project.folder / "hpo.yaml").write_text(STUDY)
    project.run("create-study")
    launched = project.start("launch", "--workers", "1")
    started: list[psutil.Process] = []
    try:
        wait_for(lambda: project.json("status")["counts"]["running"], "a running trial")
        started = family(launched.pid)
        found = listening(started)
    finally:
        launched.kill()
        launched.wait()
        for process in psutil.wait_procs(started, timeout=20)[1]:
            process.kill()
    assert {("raylet", True), ("gcs_server", True)} <= found
    assert {name for name, local in found if not local} == set()
    assert not (project.folder / ".ray").exists()
