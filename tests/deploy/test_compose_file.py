"""docker-compose.yml, its variables and its images, as far as they are read without containers."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
OURS = [name for name, one in SERVICES.items() if one["image"].startswith("hpo-")]
SECRET = re.compile(r"\w*(PASSWORD|_KEY|TOKEN)")


def variables(text: str) -> dict[str, set[str]]:
    """Name of each variable in braces -> what stands behind it, `:-default` or `:?message`."""
    found: dict[str, set[str]] = {}
    for name, rest in re.findall(r"\$\{(\w+)([^}]*)\}", text):
        found.setdefault(name, set()).add(rest)
    return found


def example() -> dict[str, str]:
    lines = (DEPLOY / "env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def made(folder: Path) -> subprocess.CompletedProcess[str]:
    words = [str(DEPLOY / "make-env"), str(folder / ".env")]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_only_the_proxy_publishes_a_port_and_on_loopback_unless_told_otherwise() -> None:
    """Nothing else of the stack can be reached from outside its networks."""
    publishing = [name for name, one in SERVICES.items() if "ports" in one or "network_mode" in one]
    assert publishing == ["proxy"]
    assert SERVICES["proxy"]["ports"] == ["${HPO_BIND:-127.0.0.1}:${HPO_PORT:-8443}:8443"]
    assert example()["HPO_BIND"] == "127.0.0.1"


def test_the_proxy_cannot_reach_the_database_nor_the_object_store() -> None:
    """What others can talk to shares a network with the two pages only."""
    behind = {name for name, one in SERVICES.items() if "web" in one["networks"]}
    assert behind == {"proxy", "mlflow", "dashboard"}
    assert SERVICES["proxy"]["networks"] == ["web"]


def test_no_secret_has_a_default_and_none_is_written_down() -> None:
    """Every secret comes from .env, and nothing starts while it is empty."""
    for name, rests in variables(TEXT).items():
        if SECRET.fullmatch(name):
            assert all(rest.startswith(":?") and "make-env" in rest for rest in rests), name
    assert all(not value for name, value in example().items() if SECRET.fullmatch(name))
    for one in SERVICES.values():
        for name, value in (one.get("environment") or {}).items():
            if SECRET.fullmatch(name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
            assert not re.search(r"://[^/@]*:(?!\$\{)[^/@]*@", value), name


def test_the_example_has_every_variable_of_the_file_and_no_other() -> None:
    """A person who reads deploy/env.example has read all there is to set."""
    lan = (DEPLOY / "compose.lan.yml").read_text()
    assert set(variables(TEXT + lan)) == set(example())


def test_only_an_address_that_is_named_opens_the_database_and_the_store() -> None:
    """deploy/compose.lan.yml adds two ports, both at an address without a default."""
    text = (DEPLOY / "compose.lan.yml").read_text()
    for one in yaml.safe_load(text)["services"].values():
        assert set(one) == {"ports"}
        assert all(port.startswith("${HPO_LAN_ADDRESS:?") for port in one["ports"])
    assert not example()["HPO_LAN_ADDRESS"]


def test_the_superusers_password_is_known_to_the_database_and_to_init_alone() -> None:
    """A worker that is taken over owns the studies, not the server."""
    holders = [
        name for name, one in SERVICES.items() if "POSTGRES_PASSWORD" in str(one["environment"])
    ]
    assert holders == ["postgres", "init"]


def test_each_program_has_the_role_that_is_its_own() -> None:
    """MLflow owns its database alone, and the dashboard can only read."""
    storage = {name: str(one["environment"].get("HPO_STORAGE")) for name, one in SERVICES.items()}
    assert storage["dashboard"].startswith("postgresql://hpo_reader:")
    assert storage["mlflow"] == "None"
    assert SERVICES["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"].startswith(
        "postgresql+psycopg2://mlflow:"
    )
    for name in ("ray-head", "worker", "worker-gpu", "hpo"):
        assert storage[name].startswith("postgresql://hpo:"), name


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_more_rights_than_they_need(name: str) -> None:
    """Read-only root, no capability, no way to gain one, no privilege, no bind mount."""
    one = SERVICES[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["tmpfs"] == ["/tmp"]  # noqa: S108 - of the container
    assert not {"privileged", "cap_add", "pid", "ipc", "network_mode"} & set(one)
    mounted = [volume for volume in one.get("volumes", ()) if volume.startswith((".", "/"))]
    assert mounted == (["./work:/work"] if name == "hpo" else [])
    assert name == "hpo" or "user" not in one  # the image's own


def test_pages_answer_to_their_own_names_only() -> None:
    """Neither MLflow nor the dashboard takes a request for any host, and one only reads."""
    hosts = SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {host.partition(":")[0] for host in hosts} == {"mlflow", "localhost", "127.0.0.1"}
    assert SERVICES["dashboard"]["environment"]["HPO_DASHBOARD_HOSTS"] == "dashboard"


def test_the_gpu_profile_takes_nvidia_devices() -> None:
    """Nobody else does, and it starts only when it is asked for."""
    wanting = [name for name, one in SERVICES.items() if "nvidia" in str(one.get("deploy"))]
    assert wanting == ["worker-gpu"]
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]


def test_the_proxys_rules_hold_for_every_page() -> None:
    """A login everywhere but at the health page, and what is dropped is dropped everywhere."""
    text = re.sub(r"#.*", "", (DEPLOY / "proxy" / "nginx.conf").read_text())
    head, *locations = re.split(r"\blocation\b", text)
    assert 'auth_basic "hpo";' in head
    assert "auth_basic_user_file" in head
    assert "if ($of_another_site) { return 403; }" in head
    for name in ("Authorization", "Origin"):
        assert f'proxy_set_header {name} "";' in head
    # nginx: a place with one of these of its own inherits none of those above it
    assert all("proxy_set_header" not in one and "add_header" not in one for one in locations)
    assert [one.split("{")[0].split() for one in locations if "auth_basic off" in one] == [
        ["=", "/healthz"]
    ]


def test_images_are_of_one_version_each() -> None:
    """No `latest`: what was tested is what starts."""
    for name, one in SERVICES.items():
        tag = one["image"].rpartition(":")[2].rstrip("}")
        assert re.search(r"\d", tag), name


def test_a_node_has_time_to_leave_in_order() -> None:
    """The engine waits longer than an epoch's grace and what comes after it."""
    from workers.ray_launcher.launch import LEAVE_S
    from workers.shutdown import GRACE_S

    for name in ("ray-head", "worker", "worker-gpu", "hpo"):
        seconds = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert seconds > GRACE_S + LEAVE_S


def test_every_role_that_is_asked_for_is_one_of_the_entrypoint() -> None:
    """No container starts a word that the image does not know."""
    roles = re.findall(r"^  ([a-z-]+)\)$", (DEPLOY / "entrypoint").read_text(), re.MULTILINE)
    asked = {SERVICES[name]["command"][0] for name in OURS if name not in ("proxy", "hpo")}
    assert asked <= set(roles)
    assert SERVICES["hpo"]["entrypoint"][-1] in roles


def test_make_env_fills_every_secret_at_random(tmp_path: Path) -> None:
    """Two runs share no secret, nothing is left empty, and only the owner can read the file."""
    sets = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = made(folder)
        assert done.returncode == 0, done.stderr
        text = (folder / ".env").read_text()
        values = dict(
            line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#")
        )
        assert set(values) == set(example())
        secrets = {values[name] for name in values if SECRET.fullmatch(name)}
        assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets)
        assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
        assert not any(secret in done.stdout + done.stderr for secret in secrets)
        sets.append(secrets)
    assert len(sets[0] | sets[1]) == len(sets[0]) + len(sets[1])


def test_make_env_leaves_a_file_that_is_there(tmp_path: Path) -> None:
    """Its passwords are the database's: another set would lock everybody out."""
    (tmp_path / ".env").write_text("PROXY_PASSWORD=mine\n")
    done = made(tmp_path)
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert (tmp_path / ".env").read_text() == "PROXY_PASSWORD=mine\n"
    assert [file.name for file in tmp_path.iterdir()] == [".env"]


def test_the_build_gets_nothing_that_the_image_is_not_made_of() -> None:
    """No .env, no .hpo and no .git is sent to the builder."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    wanted = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(
        r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE
    )
    named = {word for line in copied for word in line.split()}
    assert all(any(word == one or word.startswith(f"{one}/") for one in wanted) for word in named)
    assert all((ROOT / one).exists() for one in wanted)


def test_the_images_run_as_users_of_their_own_and_pin_what_they_install() -> None:
    """No stage that runs is root's, and pip is never asked without the constraints file."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    for stage in stages:
        if "ENTRYPOINT" in stage:
            assert re.search(r"^USER \d+:\d+$", stage, re.MULTILINE), stage[:60]
            assert "HEALTHCHECK" in stage
    for line in text.splitlines():
        if "pip install" in line:
            assert "-c " in line or "--no-deps" in line or "constraints.txt" in line, line
