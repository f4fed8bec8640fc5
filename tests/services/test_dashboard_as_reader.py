"""optuna-dashboard as a container runs it: it waits for tables, reads, and changes nothing."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from support.command_line import free_port, wait_for
from support.studies import simulated_study

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.proxies import Server

pytestmark = pytest.mark.cluster  # dashboards are started

PREFIXES = ("HPO_", "MLFLOW_", "OPTUNA_")


class Dashboard:
    """The real program in a process of its own.

    Attributes:
        port: where it is told to listen.
        log: what it says.
    """

    def __init__(self, folder: Path, **env: str) -> None:
        self.port = free_port()
        self.log = folder / "dashboard.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hpo.services.dashboard", str(self.port)],
                env=inherited | {"HPO_HOME": str(folder / ".hpo")} | env,
                stdout=log,
                stderr=log,
            )

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of what it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def healthy(self) -> bool:
        """Whether its health page says so."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.ask("GET", "/healthz", Host="10.1.2.3")[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def end(self) -> int:
        """End it as a container's runtime does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def reading(
    _provisioned: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Dashboard, Server, int]]:
    """A dashboard as the reader, its server, and the id of a study with a trial."""
    engine = _provisioned.engine("HPO_STORAGE")
    study = simulated_study(engine, study="shown")
    with engine.begin() as connection:
        connection.execute(
            text("insert into trials (study_id, number, state) values (:s, 0, 'RUNNING')"),
            {"s": study.study_id},
        )
    dashboard = Dashboard(
        tmp_path_factory.mktemp("reading"),
        HPO_STORAGE=_provisioned.env["HPO_STORAGE"],
        HPO_READER_STORAGE=_provisioned.env["HPO_READER_STORAGE"],
        HPO_DASHBOARD_HOSTS="dashboard, other",
    )
    try:
        wait_for(dashboard.healthy, "the dashboard serves")
        yield dashboard, _provisioned, study.study_id
    finally:
        assert dashboard.end() == 0


def test_every_page_loads_as_the_reader(reading: tuple[Dashboard, Server, int]) -> None:
    """List, detail, importances, the table as CSV and the page itself, by a named host too."""
    dashboard, _, study_id = reading
    status, listed = dashboard.ask("GET", "/api/studies", Host="dashboard:8080")
    assert status == 200
    assert "shown" in [one["study_name"] for one in json.loads(listed)["study_summaries"]]
    status, detail = dashboard.ask("GET", f"/api/studies/{study_id}?after=0")
    assert status == 200
    assert [one["state"] for one in json.loads(detail)["trials"]] == ["Running"]
    for path in (
        f"/dashboard/studies/{study_id}",
        f"/csv/{study_id}",
        f"/api/studies/{study_id}/param_importances",
        "/api/meta",
    ):
        assert dashboard.ask("GET", path)[0] == 200, path


@pytest.mark.parametrize("path", ["/favicon.ico", "/static/bundle.js"])
def test_a_client_that_names_no_encoding_is_served(
    reading: tuple[Dashboard, Server, int], path: str
) -> None:
    """As curl and probes ask; the file comes as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", reading[0].port, timeout=60)
    connection.putrequest("GET", path, skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Encoding")) == (200, None)
    assert answer.read()
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/{study}", {}),
        ("POST", "/api/studies/{study}/rename", {"study_name": "mine"}),
        ("POST", "/api/studies", {"study_name": "new", "directions": [2]}),
        ("PUT", "/api/studies/{study}/note", {"version": 1, "body": "mine"}),
        ("POST", "/api/trials/{trial}/tell", {"state": "Fail"}),
        ("POST", "/api/trials/{trial}/user-attrs", {"user_attrs": {"a": 1}}),
    ],
)
def test_what_a_visitor_would_change_is_refused(
    reading: tuple[Dashboard, Server, int], method: str, path: str, body: Any
) -> None:
    """403 with the reason as JSON, and study and trial stay as they are."""
    dashboard, server, study_id = reading
    everything = text(
        "select (select array_agg(study_name) from studies), (select array_agg(state::text)"
        " from trials), (select count(*) from trial_user_attributes), trial_id from trials"
    )
    with server.engine("HPO_STORAGE").connect() as connection:
        before = connection.execute(everything).one()
    place = path.format(study=study_id, trial=before.trial_id)
    status, said = dashboard.ask(method, place, body)
    assert status == 403
    assert "only reads" in json.loads(said)["reason"]
    with server.engine("HPO_STORAGE").connect() as connection:
        assert connection.execute(everything).one() == before


def test_strangers_get_nothing(reading: tuple[Dashboard, Server, int]) -> None:
    """A host that nobody named, or a page of another site, is turned away; health is not."""
    dashboard, _, _ = reading
    assert dashboard.ask("GET", "/api/studies", Host="evil.example")[0] == 403
    assert dashboard.ask("GET", "/api/studies", Origin="http://evil.example")[0] == 403
    assert dashboard.ask("GET", "/healthz", Host="evil.example")[0] == 200


def test_it_waits_for_the_tables_and_says_so(server: Server, tmp_path: Path) -> None:
    """Started before `hpo provision` has come that far, it serves once the schema is there."""
    password = server.env["HPO_STORAGE"].partition("://")[2].partition("@")[0].partition(":")[2]
    server.as_admin(f"CREATE ROLE {server.role['hpo']} LOGIN PASSWORD '{password}'")
    server.as_admin(f"CREATE DATABASE {server.role['hpo']} OWNER {server.role['hpo']}")
    dashboard = Dashboard(tmp_path, HPO_STORAGE=server.env["HPO_STORAGE"])
    try:
        wait_for(lambda: "Waiting for the tables" in dashboard.log.read_text(), "it says so")
        assert not dashboard.healthy()
        server.provision()
        wait_for(dashboard.healthy, "it serves")
        assert password not in dashboard.log.read_text()
        # The service's own role may write, so this one lets its visitors
        assert dashboard.ask("DELETE", "/api/studies/77", {})[0] == 404
    finally:
        assert dashboard.end() == 0


def test_what_no_waiting_mends_ends_it_with_a_word(server: Server, tmp_path: Path) -> None:
    """A wrong password: no traceback, no endless waiting, and the password is not shown."""
    dashboard = Dashboard(tmp_path, HPO_DASHBOARD_STORAGE=server.url("reader", "postgres"))
    assert dashboard.process.wait(timeout=60) == 1
    said = dashboard.log.read_text()
    assert "wrong user name or password" in said
    assert "Traceback" not in said
