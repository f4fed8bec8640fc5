"""The Kubernetes manifests fit each other, the image and the program: names, ports, times."""

from __future__ import annotations

import base64
import binascii
import re
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from support.manifests import (
    EXAMPLE,
    KUBERNETES,
    VERSIONS,
    WHOLE,
    documents,
    faults,
    named,
    pods,
    whole,
)
from support.sources import ROOT

from hpo.settings import VARIABLES
from workers.shutdown import GRACE_S

if TYPE_CHECKING:
    from support.manifests import Manifest

DEPLOY = KUBERNETES.parent
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
RAY_ENDS_S = 15  # of Ray's own processes, after the workers have left


def secrets(name: str) -> dict[str, set[str]]:
    """The keys of the Secrets that a person makes for one way to install it."""
    if name == "existing":
        made = documents(EXAMPLE)
    else:
        done = subprocess.run(
            [KUBERNETES / "try-out" / "make-secrets"], check=True, capture_output=True, text=True
        )
        made = [one for one in yaml.safe_load_all(done.stdout) if one]
    return {one["metadata"]["name"]: set(one["stringData"]) for one in made}


def given(manifests: list[Manifest], secret_keys: dict[str, set[str]]) -> dict[str, set[str]]:
    """The variables of each container by their names; fails where one comes from nowhere."""
    settings = {name: set(one["data"]) for name, one in named(manifests, "ConfigMap").items()}
    found: dict[str, set[str]] = {}
    for pod in pods(manifests):
        for container in pod.own_containers:
            names = {one["name"] for one in container.get("env", ())}
            for source in container.get("envFrom", ()):
                if "configMapRef" in source:
                    names |= settings[source["configMapRef"]["name"]]
                else:
                    names |= secret_keys[source["secretRef"]["name"]]
            for one in container.get("env", ()):
                if key := one.get("valueFrom", {}).get("secretKeyRef"):
                    assert key["key"] in secret_keys[key["name"]], f"{pod.name}: {key}"
            found[pod.name] = names
    return found


# Where each kind of variable is read; a name that does not stand there would do nothing
READ_IN = {
    "HPO_": [*(ROOT / "hpo").rglob("*.py"), DEPLOY / "entrypoint"],
    "MLFLOW_": ["mlflow/environment_variables.py", "mlflow/cli/__init__.py", DEPLOY / "entrypoint"],
    "AWS_": ["botocore/credentials.py", "botocore/configprovider.py", "botocore/utils.py"],
    "RAY_": ["ray/_private/ray_constants.py", DEPLOY / "entrypoint"],
    "PROXY_": [DEPLOY / "proxy" / "start"],
    "DASHBOARD_": [DEPLOY / "proxy" / "start"],
}
OF_OTHERS = {"HOME", "POSTGRES_PASSWORD", "PGDATA"}  # the shell's; the PostgreSQL image's


def _is_read(name: str) -> bool:
    if name in OF_OTHERS or name in VARIABLES:
        return True
    places: list[str | Path] = READ_IN[f"{name.partition('_')[0]}_"]
    if name.endswith("_UPSTREAM"):
        places = READ_IN["PROXY_"]
    if name.startswith("AWS_"):
        # botocore derives a service's endpoint variable from the name of the general one
        places = [*places, "botocore/session.py"]
    pattern = re.compile(rf"\b{name}\b")
    return any(pattern.search(_text(place)) for place in places)


def _text(place: str | Path) -> str:
    if isinstance(place, str):
        package, _, rest = place.partition("/")
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        place = Path(spec.origin).parent / rest
    return place.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WHOLE)
def test_variables_come_from_somewhere_and_are_read(name: str) -> None:
    """Every Secret, ConfigMap and key named is there, none is spare, and a program reads it."""
    manifests, secret_keys = whole(name), secrets(name)
    names = set().union(*given(manifests, secret_keys).values())
    assert [one for one in sorted(names) if not _is_read(one)] == []
    text = yaml.safe_dump(manifests)
    assert [one for one in secret_keys if f"{one}\n" not in text and f"{one}," not in text] == []
    assert [one for one in named(manifests, "ConfigMap") if f"name: {one}\n" not in text] == []


@pytest.mark.parametrize("name", WHOLE)
def test_each_role_has_its_own_address_of_the_database(name: str) -> None:
    """The superuser's is known to init, MLflow's to MLflow and init, the writer's to no page."""
    found = given(whole(name), secrets(name))
    assert {pod for pod, names in found.items() if "HPO_ADMIN_STORAGE" in names} == {"init"}
    assert {pod for pod, names in found.items() if "MLFLOW_BACKEND_STORE_URI" in names} == {
        *("init", "mlflow")
    }
    (dashboard,) = (one for one in pods(whole(name)) if one.name == "dashboard")
    (storage,) = (one for one in dashboard.own_containers[0]["env"] if one["name"] == "HPO_STORAGE")
    assert storage["valueFrom"]["secretKeyRef"]["name"] == "hpo-reader"
    assert "envFrom" not in dashboard.own_containers[0]


def test_the_example_secrets_cannot_be_applied() -> None:
    """Each has a value that is no base64, so Kubernetes refuses it until a person takes it out."""
    for secret in documents(EXAMPLE):
        assert faults(secret, VERSIONS[-1]) == []  # it is in order, but for that
        (value,) = secret["data"].values()
        with pytest.raises(binascii.Error):
            base64.b64decode(value, validate=True)


def test_secrets_made_are_random() -> None:
    """Two runs share no password, and none of them is short."""
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [KUBERNETES / "try-out" / "make-secrets"], check=True, capture_output=True, text=True
        )
        runs.append(set(re.findall(r"[0-9a-f]{40,}", done.stdout)))
    assert len(runs[0]) == len(runs[1]) == 8
    assert not runs[0] & runs[1]


@pytest.mark.parametrize("name", WHOLE)
def test_services_lead_to_ports_that_listen(name: str) -> None:
    """Each Service finds pods and a port of theirs; each address in a variable is a Service's."""
    manifests = whole(name)
    services: dict[str, set[int]] = {"ray-head-svc": {6379}}  # KubeRay's, by the cluster's name
    for service, one in named(manifests, "Service").items():
        found = [
            pod for pod in pods(manifests) if one["spec"]["selector"].items() <= pod.labels.items()
        ]
        ports = {
            port["name"]: port["containerPort"]
            for pod in found
            for port in pod.own_containers[0]["ports"]
        }
        for port in one["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
        services[service] = {port["port"] for port in one["spec"]["ports"]}
    assert f"{next(iter(named(manifests, 'RayCluster')))}-head-svc" == "ray-head-svc"
    text = yaml.safe_dump(manifests)
    addresses = re.findall(
        r"(?:http://|[ ,])([a-z0-9-]+)(?:\.hpo\.svc\.cluster\.local)?:(\d{4,5})\b", text
    )
    assert len(addresses) >= 5
    assert [one for one in addresses if int(one[1]) not in services.get(one[0], ())] == []


def test_pods_ask_the_image_for_roles_that_it_has() -> None:
    """The first word of a container of ours is a role of deploy/entrypoint, run by its user."""
    roles = set(re.findall(r"^  ([a-z-]+)\)$", (DEPLOY / "entrypoint").read_text(), re.MULTILINE))
    stages = re.split(r"^FROM \S+ AS ", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    users = {
        stage.split()[0]: found[1]
        for stage in stages
        if (found := re.search(r"--uid (\d+)", stage))
    }
    for pod in pods(whole("try-out")):
        container = pod.own_containers[0]
        user = str(pod.spec["securityContext"]["runAsUser"])
        if container["image"].startswith("hpo-proxy"):
            assert user == users["proxy"]
        if container["image"].startswith("hpo-service"):
            assert user == users["service"]
            # KubeRay writes the commands of its own pods
            assert pod.kind == "RayCluster" or container["args"][0] in roles


def test_versions_are_those_of_the_project() -> None:
    """Images carry hpo-service's version, and KubeRay is told the Ray that the image has."""
    manifests = whole("existing")
    ours = {
        container["image"].partition(":")[2].removesuffix("-cuda")
        for pod in pods(manifests)
        for container in pod.own_containers
    }
    assert ours == {version("hpo-service")}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (pin,) = re.findall(r"^ray==(\S+)", pins, re.MULTILINE)
    assert named(manifests, "RayCluster")["ray"]["spec"]["rayVersion"] == pin


def test_pods_have_the_time_to_drain() -> None:
    """Ray's drain covers the grace and what comes after it, and Kubernetes waits longer still."""
    from workers.ray_launcher.cluster import STOP_S
    from workers.ray_launcher.launch import LEAVE_S

    for pod in pods(whole("existing")):
        patience = pod.spec.get("terminationGracePeriodSeconds", 0)
        if pod.kind == "RayCluster":
            (drain,) = (
                float(one["value"]) for one in pod.own_containers[0]["env"] if one["name"] == DRAIN
            )
            assert drain >= GRACE_S + LEAVE_S
            assert patience >= drain + RAY_ENDS_S
        if pod.name == "launch":
            assert patience >= GRACE_S + LEAVE_S + STOP_S


@pytest.mark.parametrize("name", WHOLE)
def test_pages_answer_to_their_own_names_only(name: str) -> None:
    """Neither MLflow nor the dashboard takes a request for any host."""
    values = [
        (one["name"], one["value"])
        for pod in pods(whole(name))
        for container in pod.own_containers
        for one in container.get("env", ())
        if one["name"] in ("MLFLOW_SERVER_ALLOWED_HOSTS", "HPO_DASHBOARD_HOSTS")
    ]
    assert {variable for variable, _ in values} == {
        "MLFLOW_SERVER_ALLOWED_HOSTS",
        "HPO_DASHBOARD_HOSTS",
    }
    for variable, value in values:
        allowed = {host.partition(":")[0].partition(".")[0] for host in value.split(",")}
        own = "mlflow" if variable.startswith("MLFLOW") else "dashboard"
        assert allowed <= {own, "localhost", "127"}, (variable, value)


@pytest.mark.parametrize("name", WHOLE)
def test_ray_grows_by_nodes_with_and_without_a_gpu(name: str) -> None:
    """The autoscaler is on, both groups may be empty, and only one takes GPUs."""
    (cluster,) = named(whole(name), "RayCluster").values()
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    groups = {one["groupName"]: one for one in cluster["spec"]["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    for group, one in groups.items():
        assert one["minReplicas"] == 0 < one["maxReplicas"]
        limits = one["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) is (group == "gpu")
