"""The compose file as README has it: started, used, hurt, stopped and started again.

One project for all tests here, in the order in which they stand: a study of real YOLO trainings on
two Ray nodes, one of which is killed. `make test-deploy`; minutes.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import time
from typing import Any

import pytest
from packaging.requirements import Requirement
from support.containers import ROOT, SERVICES, STUDY, TRIALS, Team, engine, run, wait

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(3600)]


def test_a_killed_node_costs_no_trial(team: Team, study: Any) -> None:
    """The budget is exact, and the dead node's trial went on elsewhere."""
    assert study["budget"] == study["budget"] | {"trials": TRIALS, "claimed": TRIALS}
    counts = study["counts"]
    assert counts["complete"] + counts["pruned"] == TRIALS
    assert counts["failed"] == counts["running"] == counts["waiting"] == 0
    trials = team.json("trials", "--study", STUDY)
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    assert sum(trial["takeovers"] for trial in trials) >= 1
    hosts = team.sql("select distinct host from hpo.worker where device is not null")
    assert len(hosts) >= 2


def test_postgresql_has_every_trial(team: Team, study: Any) -> None:
    """What the commands say stands in the database."""
    rows = team.sql(
        "select t.state, count(*) from trials t join studies s using (study_id)"  # noqa: S608 - our own name
        f"  where s.study_name = '{STUDY}' group by 1"
    )
    found = {state.lower(): int(count) for state, count in (row.split("|") for row in rows)}
    assert found == {
        name: study["counts"][name] for name in ("complete", "pruned") if study["counts"][name]
    }


@pytest.mark.usefixtures("study")
def test_mlflow_answers_behind_the_login_only(team: Team) -> None:
    """Its API has a run for every trial and the champion; nobody else gets a word of it."""
    ask = ("-X", "POST", "-H", "Content-Type: application/json", "-d")
    found = team.page("/mlflow/api/2.0/mlflow/experiments/search", *ask, '{"max_results": 10}')
    ids = [one["experiment_id"] for one in json.loads(found[1])["experiments"]]
    query = json.dumps({"experiment_ids": ids, "max_results": 100})
    status, body = team.page("/mlflow/api/2.0/mlflow/runs/search", *ask, query)
    assert status == 200
    names = {run_["info"]["run_id"] for run_ in json.loads(body)["runs"]}
    trials = team.json("trials", "--study", STUDY)
    assert {trial["run_id"] for trial in trials} <= names
    path = f"/mlflow/api/2.0/mlflow/registered-models/alias?name={STUDY}&alias=champion"
    status, body = team.page(path)
    assert (status, json.loads(body)["model_version"]["version"]) == (200, "1")
    for login in ("", "hpo:wrong", "wrong:" + team.secrets["PROXY_PASSWORD"]):
        status, body = team.page(path, login=login)
        assert status == 401
        assert STUDY not in body


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("host", ["localhost", "gpubox.example.org"])
def test_pages_work_by_any_name_and_for_no_other_sites_page(team: Team, host: str) -> None:
    """A browser sends the login along wherever a request comes from: the Origin tells."""
    own, ask = f"Origin: https://{host}:{team.port}", ("-X", "POST", "-d", '{"max_results": 5}')
    kind = ("-H", "Content-Type: application/json")
    search = "/mlflow/ajax-api/2.0/mlflow/experiments/search"
    assert team.page(search, *ask, *kind, "-H", own, host=host)[0] == 200
    assert team.page("/api/studies", "-H", own, host=host)[0] == 200
    for path in ("/", search, "/api/studies"):
        assert team.page(path, *kind, "-H", "Origin: https://evil.example", host=host)[0] == 403
    inside = team.execute(
        "mlflow", "python", "-c",
        "import http.client as h; c = h.HTTPConnection('127.0.0.1', 5000);"
        "c.request('GET', '/api/2.0/mlflow/experiments/search', headers={'Host': 'evil.example'});"
        "print(c.getresponse().status)",
    )  # fmt: skip
    assert inside.stdout.split()[-1] == "403"


ECHO = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Echo(BaseHTTPRequestHandler):
    def do_GET(self):
        text = str(self.headers).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)
HTTPServer(('0.0.0.0', 8080), Echo).serve_forever()
"""


def test_what_is_behind_the_proxy_never_sees_the_login(team: Team) -> None:
    """A program in the dashboard's place gets neither the password nor the Origin."""
    network = f"{team.name}_web"
    names = [f"{team.name}-echo", f"{team.name}-proxy2"]
    try:
        run(team.engine, "run", "-d", "--name", names[0], "--network", network, "--entrypoint",
            "python", "hpo-service:0.1.0", "-c", ECHO)  # fmt: skip
        run(team.engine, "run", "-d", "--name", names[1], "--network", network, "-p",
            f"127.0.0.1:{team.port + 1}:8443", "-e", "PROXY_USER=hpo", "-e",
            f"PROXY_PASSWORD={team.secrets['PROXY_PASSWORD']}", "-e",
            f"DASHBOARD_UPSTREAM={names[0]}:8080", "hpo-proxy:0.1.0")  # fmt: skip
        other = f"https://localhost:{team.port + 1}"
        words = ("curl", "-sk", "-u", f"hpo:{team.secrets['PROXY_PASSWORD']}", "-H",
                 f"Origin: {other}", f"{other}/dashboard/")  # fmt: skip
        seen = wait(lambda: run(*words, check=False).stdout, "the echo behind a proxy", 60)
        assert "X-Forwarded-Proto: https" in seen
        assert "Authorization" not in seen
        assert "Origin" not in seen
    finally:
        for name in names:
            run(team.engine, "rm", "-f", name, check=False)


@pytest.mark.usefixtures("study")
def test_the_dashboard_shows_the_study_and_changes_nothing(team: Team) -> None:
    """With the login it can be looked at; a deletion is refused, and the study stays."""
    status, body = team.page("/api/studies")
    listed = {one["study_name"]: one["study_id"] for one in json.loads(body)["study_summaries"]}
    assert (status, STUDY in listed) == (200, True)
    assert team.page(f"/api/studies/{listed[STUDY]}", "-X", "DELETE")[0] == 403
    assert team.page("/api/studies", login="")[0] == 401
    assert team.json("status", "--study", STUDY)["state"] == "finished"


@pytest.mark.usefixtures("study")
def test_files_are_in_the_object_store(team: Team) -> None:
    """Weights, pictures and the registered model are in the bucket, and no disk is shared."""
    listed = team.execute(
        "worker", "python", "-c",
        "import boto3, json; s = boto3.client('s3'); print(json.dumps([o['Key'] for p in"
        " s.get_paginator('list_objects_v2').paginate(Bucket='hpo') for o in p['Contents']]))",
    ).stdout  # fmt: skip
    keys = json.loads(listed.strip().splitlines()[-1])
    stored = team.sql(
        "select a.sha256 from hpo.artifact a join trials t using (trial_id)"  # noqa: S608 - our own name
        f" join studies s using (study_id) where s.study_name = '{STUDY}'"
    )
    assert stored
    assert {f"artifacts/objects/{sha256[:2]}/{sha256}" for sha256 in stored} <= set(keys)
    assert any(key.startswith("mlflow/") for key in keys)


@pytest.mark.usefixtures("study")
def test_a_pushed_dataset_reaches_nodes_that_lack_it(team: Team) -> None:
    """`hpo data push` from one folder; the nodes fetch it from the store and train."""
    team.hpo("data", "shapes", "--imgsz", "64", "--train", "24", "--val", "8", "--test", "12",
             "-o", "/work/mine")  # fmt: skip
    missing = team.hpo("create-study", "--name", "pushed", "--data", "/work/mine/data.yaml",
                       "--trials", "1", "--epochs", "1", "--set", "train.imgsz=64")  # fmt: skip
    assert "Created study 'pushed'" in missing.stdout
    team.hpo("data", "push", "/work/mine/data.yaml")
    shutil.rmtree(team.work / "mine")
    done = team.hpo("launch", "--study", "pushed", "--workers", "1")
    status = team.json("status", "--study", "pushed")
    assert (status["state"], status["counts"]["complete"]) == ("finished", 1), done.stdout


def test_only_the_proxy_can_be_reached(team: Team) -> None:
    """No other container has a port on this machine, and the proxy's is on loopback."""
    for service in SERVICES:
        for one in team.ids(service):
            ports = team.inspect(one)["NetworkSettings"]["Ports"] or {}
            bound = {port: where for port, where in ports.items() if where}
            if service != "proxy":
                assert not bound, service
            else:
                assert [(where["HostIp"], where["HostPort"]) for where in bound["8443/tcp"]] == [
                    ("127.0.0.1", str(team.port))
                ]
    assert team.page("/healthz", login="")[0] == 204


@pytest.mark.parametrize("service", ["mlflow", "dashboard", "ray-head", "worker", "proxy"])
def test_our_containers_run_as_nobody_special(team: Team, service: str) -> None:
    """Not root, nothing of the image can be written, and each says that it is well."""
    assert int(team.execute(service, "id", "-u").stdout) > 10000
    written = team.execute(service, "touch", "/opt/x", "/usr/x", check=False)
    assert "Read-only file system" in written.stderr + written.stdout
    effective = team.execute(service, "grep", "CapEff", "/proc/self/status").stdout
    assert effective.split()[-1] == "0" * 16
    if team.engine == "podman":  # which has no timer of its own where no systemd runs
        for _ in range(5):
            one = team.ids(service, stopped=False)[0]
            checked = run("podman", "healthcheck", "run", one, check=False)
            if checked.returncode == 0:
                break
            time.sleep(2)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    else:
        state = wait(lambda: team.inspect(team.ids(service)[0])["State"]["Health"], service, 10)
        assert state["Status"] == "healthy"


@pytest.mark.usefixtures("study")
def test_no_password_is_in_a_log_or_an_argument(team: Team) -> None:
    """All that the containers said, and what they run as, holds none of the secrets."""
    hidden = {name: one for name, one in team.secrets.items() if name != "S3_ACCESS_KEY"}
    for service in SERVICES:
        said = team.logs(service)
        shown = "".join(
            run(team.engine, "top", one, *(["args"] if team.engine == "podman" else []),
                check=False).stdout
            for one in team.ids(service)
        )  # fmt: skip
        for name, secret in hidden.items():
            assert secret not in said, (service, name)
            assert secret not in shown, (service, name)
    history = run(team.engine, "history", "--no-trunc", "hpo-service:0.1.0").stdout
    assert not any(secret in history for secret in hidden.values())


def test_what_the_image_says_of_itself() -> None:
    """OCI labels with licence and version, a health check, and a user that is a number."""
    program = engine()
    config = json.loads(run(program, "image", "inspect", "hpo-service:0.1.0").stdout)[0]
    labels = config.get("Labels") or config["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "AGPL-3.0-or-later"
    assert labels["org.opencontainers.image.version"] == "0.1.0"
    assert config["Config"]["User"] == "10001:10001"
    assert config.get("HealthCheck") or config.get("Healthcheck") or config["Config"]["Healthcheck"]


def test_the_image_holds_the_versions_of_the_constraints_file() -> None:
    """What was tested here is what runs there, package by package."""
    words = ("run", "--rm", "--entrypoint", "pip", "hpo-service:0.1.0", "list", "--format=json")
    listed = json.loads(run(engine(), *words).stdout)
    found = {one["name"].lower().replace("_", "-"): one["version"] for one in listed}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if "==" in line and not line.startswith("#")]
    pins = {
        one.name.lower(): str(one.specifier).removeprefix("==")
        for one in pinned
        if one.marker is None or one.marker.evaluate()
    }
    shared = set(pins) & set(found)
    assert {"torch", "ray", "mlflow", "optuna", "ultralytics"} <= shared
    # A build for the CPU alone says so behind a plus sign
    assert {name: found[name].partition("+")[0] for name in shared} == {n: pins[n] for n in shared}


@pytest.mark.usefixtures("study")
def test_a_backup_can_be_read_back(team: Team) -> None:
    """`pg_dump` and `pg_restore` as docs/deploy.md has them, and `hpo export` of one study."""
    count, epochs = (
        team.sql("select count(*) from trials"),
        team.sql("select count(*) from hpo.epoch"),
    )
    server = team.ids("postgres")[0]
    inside = (team.engine, "exec", "-i", server)
    dump = team.folder / "hpo.dump"
    with dump.open("wb") as file:
        words = [*inside, "pg_dump", "-U", "postgres", "-Fc", "hpo"]
        subprocess.run(words, stdout=file, check=True)
    team.sql("delete from hpo.epoch")
    assert team.sql("select count(*) from hpo.epoch") == ["0"]
    with dump.open("rb") as file:
        words = [*inside, "pg_restore", "-U", "postgres", "-d", "hpo", "--clean", "--if-exists"]
        subprocess.run([*words, "--exit-on-error"], stdin=file, check=True)
    assert team.sql("select count(*) from hpo.epoch") == epochs
    assert team.sql("select count(*) from trials") == count
    assert team.page("/api/studies")[0] == 200  # the reader may still read
    team.hpo("export", "/work/study.json.gz", "--study", STUDY)
    assert (team.work / "study.json.gz").stat().st_size > 1000


@pytest.mark.usefixtures("study")
def test_init_again_changes_nothing_and_a_new_password_counts(team: Team) -> None:
    """An upgrade runs init again; a password changed in .env is the role's from then on."""
    env = team.folder / ".env"
    old, new = team.secrets["READER_DB_PASSWORD"], secrets.token_hex(24)
    env.write_text(env.read_text().replace(old, new))
    again = team.compose("run", "--rm", "-T", "--no-deps", "init")
    parts = [line.split() for line in again.stdout.splitlines()]
    found = {(words[0], words[1]): words[2:] for words in parts if len(words) > 2}
    for part in (
        ("role", "hpo"),
        ("role", "hpo_reader"),
        ("database", "mlflow"),
        ("bucket", "hpo"),
    ):
        assert "there" in found[part], again.stdout
    assert "Updating database tables" in again.stdout + again.stderr
    assert "Traceback" not in again.stdout + again.stderr
    url = "postgresql://hpo_reader@postgres/hpo"
    for password, works in ((new, True), (old, False)):
        node = team.ids("worker", stopped=False)[0]
        tried = run(
            team.engine, "exec", "-e", f"PGPASSWORD={password}", node, "python",
            "-c", f"import psycopg2; psycopg2.connect({url!r})", check=False,
        )  # fmt: skip
        assert (tried.returncode == 0) is works, tried.stderr
    team.secrets["READER_DB_PASSWORD"] = new


def test_data_survives_down_and_up(team: Team, study: Any) -> None:
    """The volumes hold it, not the containers."""
    team.down()
    assert not team.ids("postgres")
    team.up()
    status = team.json("status", "--study", STUDY)
    assert (status["state"], status["counts"]) == ("finished", study["counts"])
    assert status["champion"] == study["champion"]
    path = f"/mlflow/api/2.0/mlflow/registered-models/alias?name={STUDY}&alias=champion"
    assert team.page(path)[0] == 200


def test_nothing_starts_with_the_examples_values(team: Team) -> None:
    """Without .env, and with deploy/env.example for it, the start is refused in words."""
    (team.folder / ".env").rename(team.folder / "kept.env")
    try:
        for text in (None, (team.folder / "deploy" / "env.example").read_text()):
            if text is not None:
                (team.folder / ".env").write_text(text)
            done = team.compose("run", "--rm", "-T", "--no-deps", "init", check=False)
            said = done.stdout + done.stderr
            assert "deploy/make-env" in said, said
    finally:
        (team.folder / "kept.env").replace(team.folder / ".env")
