"""What the manifests of deploy/kubernetes must keep to: a function a rule, each yields its faults.

Rules about how pods reach each other stand in manifest_network.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from support.manifest_network import one_door, only_its_own, silent_by_default
from support.manifests import Pod, named, pods, selects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.manifests import Manifest

    Rule = Callable[[list[Manifest]], Iterator[str]]

SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
MEASURED = ("cpu", "memory", "ephemeral-storage")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|STORAGE|STORE_URI|auth_token")
PASSWORD_IN_URL = re.compile(r"//[^/\s:@]*:[^/\s@]+@")


def _containers(manifests: list[Manifest]) -> Iterator[tuple[Pod, dict[str, Any], str]]:
    for pod in pods(manifests):
        for container in pod.containers:
            yield pod, container, f"{pod.name}/{container['name']}"


def no_root(manifests: list[Manifest]) -> Iterator[str]:
    """Nothing runs as root, whatever the image says."""
    for pod in pods(manifests):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{pod.name}: may run as root"
    for _, container, name in _containers(manifests):
        context = container.get("securityContext", {})
        if context.get("runAsNonRoot") is False or context.get("runAsUser") == 0:
            yield f"{name}: takes back what its pod says of root"


def read_only(manifests: list[Manifest]) -> Iterator[str]:
    """No container can alter its own programs; /tmp is a volume, and every volume has its limit."""
    for pod, container, name in _containers(manifests):
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            yield f"{name}: its root file system can be written to"
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", ())}
        if "/tmp" not in mounts:  # noqa: S108 - a path in the container
            yield f"{name}: has no /tmp to write to"
        if lost := set(mounts.values()) - _volumes(pod):
            yield f"{name}: mounts {lost}, which the pod does not have"
    for pod in pods(manifests):
        for volume in pod.spec.get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{pod.name}: the volume {volume['name']} could fill the machine's disk"


def _volumes(pod: Pod) -> set[str]:
    return {volume["name"] for volume in pod.spec.get("volumes", ())} | (
        {"data"} if pod.kind == "StatefulSet" else set()
    )


def no_rights(manifests: list[Manifest]) -> Iterator[str]:
    """No capability, no way to get one, and the usual filter of system calls."""
    for pod, container, name in _containers(manifests):
        context = container.get("securityContext", {})
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name}: keeps capabilities"
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{name}: may gain rights"
        profile = context.get("seccompProfile") or pod.spec["securityContext"].get("seccompProfile")
        if profile != {"type": "RuntimeDefault"}:
            yield f"{name}: any system call is open to it"


def nothing_of_the_host(manifests: list[Manifest]) -> Iterator[str]:
    """No pod sees its machine's files, processes or network."""
    for pod in pods(manifests):
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(field):
                yield f"{pod.name}: {field}"
        for volume in pod.spec.get("volumes", ()):
            if "hostPath" in volume:
                yield f"{pod.name}: the volume {volume['name']} is a folder of the machine"
    for _, container, name in _containers(manifests):
        if any("hostPort" in port for port in container.get("ports", ())):
            yield f"{name}: takes a port of its machine"


def no_token(manifests: list[Manifest]) -> Iterator[str]:
    """No pod is given a token for Kubernetes, but the Ray head for its autoscaler."""
    for pod in pods(manifests):
        given = pod.spec.get("automountServiceAccountToken")
        if pod.is_ray_head:
            if pod.spec.get("serviceAccountName"):
                yield f"{pod.name}: KubeRay's own account has the rights of the autoscaler"
        elif given is not False:
            yield f"{pod.name}: is given a token for Kubernetes"
    for name, account in named(manifests, "ServiceAccount").items():
        if account.get("automountServiceAccountToken") is not False:
            yield f"the account {name} gives its token to every pod"


def no_service_links(manifests: list[Manifest]) -> Iterator[str]:
    """Services are found by name alone.

    Else the Service `mlflow` sets MLFLOW_PORT=tcp://… in every pod: a port, as MLflow reads it.
    """
    for pod in pods(manifests):
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.name}: Services set variables in it"


def watched(manifests: list[Manifest]) -> Iterator[str]:
    """What serves is asked whether it does: at its start, before it gets work, and ever after."""
    for pod in pods(manifests):
        for container in () if pod.ends else pod.own_containers:
            names = {port.get("name") for port in container.get("ports", ())}
            for probe in PROBES:
                if probe not in container:
                    yield f"{pod.name}/{container['name']}: has no {probe}"
                    continue
                ways = {
                    **container[probe].get("httpGet", {}),
                    **container[probe].get("tcpSocket", {}),
                }
                if isinstance(ways.get("port"), str) and ways["port"] not in names:
                    yield f"{pod.name}/{container['name']}: {probe} asks at no port of its own"


def measured(manifests: list[Manifest]) -> Iterator[str]:
    """Every container says what it needs and what it may take; memory is not promised twice."""
    for _, container, name in _containers(manifests):
        resources = container.get("resources", {})
        for side in ("requests", "limits"):
            if lacking := set(MEASURED) - set(resources.get(side, {})):
                yield f"{name}: {side} say nothing of {', '.join(sorted(lacking))}"
        asked, most = (resources.get(side, {}).get("memory") for side in ("requests", "limits"))
        if asked and most and _bytes(asked) > _bytes(most):
            yield f"{name}: asks for more memory than it may take"


def _bytes(size: str) -> int:
    return int(size[:-2]) * SIZES[size[-2:]]


def pinned(manifests: list[Manifest]) -> Iterator[str]:
    """Every image has a version."""
    for pod in pods(manifests):
        for container in pod.own_containers:
            _, _, tag = container["image"].rpartition("/")[2].partition(":")
            if tag in ("", "latest"):
                yield f"{pod.name}/{container['name']}: {container['image']} may change by itself"


def no_passwords(manifests: list[Manifest]) -> Iterator[str]:
    """Passwords come from Secrets that no manifest holds, and never stand in a command line."""
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        if manifest["kind"] == "Secret":
            yield f"{name}: Secrets are not among the manifests"
        if PASSWORD_IN_URL.search(json.dumps(manifest)):
            yield f"{name}: a password in an address"
        if manifest["kind"] == "ConfigMap":
            for key in filter(SECRET_NAME.search, manifest["data"]):
                yield f"{name}: {key} belongs into a Secret"
    for _, container, name in _containers(manifests):
        yield from _passwords(container, name)


def _passwords(container: dict[str, Any], name: str) -> Iterator[str]:
    for variable in container.get("env", ()):
        from_secret = "secretKeyRef" in variable.get("valueFrom", {})
        if SECRET_NAME.search(variable["name"]) and not from_secret:
            yield f"{name}: {variable['name']} does not come from a Secret"
    for word in (*container.get("command", ()), *container.get("args", ())):
        if "$(" in str(word) or SECRET_NAME.search(str(word)):
            yield f"{name}: {word!r} in its command line"


def outlasts_a_machine(manifests: list[Manifest]) -> Iterator[str]:
    """Emptying a machine leaves one of each service, and is not blocked by it.

    KubeRay's RayCluster has no scale subresource: over its pods Kubernetes counts with nothing but
    a whole `minAvailable`.
    """
    budgets = list(named(manifests, "PodDisruptionBudget").values())
    deployments = named(manifests, "Deployment")
    for pod in pods(manifests):
        if pod.kind != "Deployment" and not pod.is_ray_head:
            continue
        over = [one["spec"] for one in budgets if selects(one["spec"]["selector"], pod.labels)]
        if len(over) != 1:
            yield f"{pod.name}: {len(over)} budgets cover it"
            continue
        if over[0].get("minAvailable") != 1:
            yield f"{pod.name}: its budget does not keep one"
        if pod.kind == "Deployment" and deployments[pod.name]["spec"]["replicas"] < 2:
            yield f"{pod.name}: has one pod, which its budget holds on its machine for ever"
    for name, budget in named(manifests, "PodDisruptionBudget").items():
        if not any(selects(budget["spec"]["selector"], pod.labels) for pod in pods(manifests)):
            yield f"the budget {name} covers no pod"


def ray_asks_for_its_token(manifests: list[Manifest]) -> Iterator[str]:
    """Whoever reaches Ray may run code on it: it asks for the token, and shows no page."""
    for name, cluster in named(manifests, "RayCluster").items():
        spec = cluster["spec"]
        options = spec.get("authOptions", {})
        if options.get("mode") != "token" or not options.get("secretName"):
            yield f"{name}: anybody who reaches it may use it"
        start = spec["headGroupSpec"]["rayStartParams"]
        if (start.get("include-dashboard"), start.get("dashboard-host")) != ("false", "127.0.0.1"):
            yield f"{name}: Ray's dashboard listens"


def restricted(manifests: list[Manifest]) -> Iterator[str]:
    """All is in one namespace, whose pods Kubernetes itself holds to the strictest standard."""
    level = "pod-security.kubernetes.io/enforce"
    for name, space in named(manifests, "Namespace").items():
        if space["metadata"].get("labels", {}).get(level) != "restricted":
            yield f"the namespace {name} takes any pod"
    for manifest in manifests:
        space = manifest["metadata"].get("namespace")
        if manifest["kind"] != "Namespace" and space not in named(manifests, "Namespace"):
            yield f"{manifest['kind']} {manifest['metadata']['name']}: is in the namespace {space}"


RULES: tuple[Rule, ...] = (
    no_root, read_only, no_rights, nothing_of_the_host, no_token, no_service_links, watched,
    measured, pinned, no_passwords, outlasts_a_machine, ray_asks_for_its_token, restricted,
    silent_by_default, only_its_own, one_door,
)  # fmt: skip


def breaches(manifests: list[Manifest]) -> list[str]:
    """The faults of all rules, each with its rule's name."""
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in rule(manifests)]
