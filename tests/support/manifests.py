"""The Kubernetes manifests of deploy/kubernetes: read, put together, and the pods in them."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate.utils
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from support.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    Manifest = dict[str, Any]

    from collections.abc import Callable

    Rule = Callable[[list[Manifest]], Iterator[str]]

KUBERNETES = ROOT / "deploy" / "kubernetes"
WHOLE = ("existing", "try-out")  # what a person applies, each with `launch` beside it
FOLDERS = (*WHOLE, "launch")
EXAMPLE = KUBERNETES / "existing" / "secrets.example.yaml"
# What this reads of Kustomize; a kustomization with more would be put together wrongly here
KNOWN = {"apiVersion", "kind", "resources", "images"}


def documents(path: Path) -> list[Manifest]:
    """The manifests of one file."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def put_together(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize FOLDER` prints: the resources, with the images' names and tags."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    unknown = set(kustomization) - KNOWN
    assert not unknown, f"{folder.name}: this reader does not know {unknown}"
    found: list[Manifest] = []
    for name in kustomization["resources"]:
        path = folder / name
        found += put_together(path) if path.is_dir() else documents(path)
    images = {image["name"]: image for image in kustomization.get("images", ())}
    for container in (each for pod in pods(found) for each in pod.own_containers):
        if image := images.get(container["image"]):
            container["image"] = f"{image['newName']}:{image['newTag']}"
    return found


def whole(name: str) -> list[Manifest]:
    """Everything of one way to install it, with the Job that launches workers; yours to alter."""
    return copy.deepcopy(_whole(name))


@cache
def _whole(name: str) -> list[Manifest]:
    return put_together(KUBERNETES / name) + put_together(KUBERNETES / "launch")


@dataclass(frozen=True)
class Pod:
    """A pod as some manifest describes it.

    Attributes:
        kind: of the manifest.
        name: the manifest's, with the group's for Ray.
        labels: the pod's, those that KubeRay adds included.
        spec: the pod's.
        added: the containers that KubeRay puts beside ours.
    """

    kind: str
    name: str
    labels: dict[str, str]
    spec: dict[str, Any]
    added: tuple[dict[str, Any], ...] = ()

    @property
    def own_containers(self) -> list[dict[str, Any]]:
        """Those that the manifest writes out."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All that run."""
        return [*self.own_containers, *self.added]

    @property
    def ends(self) -> bool:
        """Whether it is done at some time, and so is never asked whether it serves."""
        return self.kind == "Job"

    @property
    def is_ray_head(self) -> bool:
        """Whether it is the head, whose autoscaler talks to Kubernetes."""
        return self.labels.get("ray.io/node-type") == "head"


def pods(manifests: list[Manifest]) -> list[Pod]:
    """All pods of the manifests."""
    return [pod for manifest in manifests for pod in _pods(manifest)]


def _pods(manifest: Manifest) -> Iterator[Pod]:
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if kind in ("Deployment", "StatefulSet", "Job"):
        template = manifest["spec"]["template"]
        yield Pod(kind, name, template["metadata"]["labels"], template["spec"])
    if kind != "RayCluster":
        return
    spec = manifest["spec"]
    autoscaler = {"name": "autoscaler", **spec.get("autoscalerOptions", {})}
    groups = [
        ("head", spec["headGroupSpec"]),
        *(("worker", one) for one in spec["workerGroupSpecs"]),
    ]
    for node_type, group in groups:
        labels = {
            **group["template"]["metadata"]["labels"],
            "ray.io/cluster": name,
            "ray.io/node-type": node_type,
        }
        yield Pod(
            kind,
            f"{name}-{group.get('groupName', 'head')}",
            labels,
            group["template"]["spec"],
            (autoscaler,) if node_type == "head" and spec.get("enableInTreeAutoscaling") else (),
        )


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector of Kubernetes' (`matchLabels` alone) means a pod with these labels."""
    assert set(selector) <= {"matchLabels"}, f"this reader does not know {selector}"
    return selector.get("matchLabels", {}).items() <= labels.items()


def named(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """The manifests of one kind by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


# The oldest and the newest that the manifests are meant for; every other lies between
VERSIONS = ("1.31.0", "1.37.0")
DEFINITIONS = "https://kubernetes.io/api/_definitions.json#/$defs"
RAY_CLUSTER = ("RayCluster", "ray.io/v1")


def faults(manifest: Manifest, version: str) -> list[str]:
    """What is wrong with it in a Kubernetes of that version; unknown fields are faults, too."""
    checked = _validator(manifest["kind"], manifest["apiVersion"], version)
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    return [
        f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in checked.iter_errors(manifest)
    ]


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    if (kind, api_version) == RAY_CLUSTER:
        schema = ray_cluster()
    else:
        group, _, level = api_version.rpartition("/")
        file = "-".join(filter(None, (kind.lower(), group.partition(".")[0], level)))
        schema = _shipped(f"{file}.json", version)
    return Draft202012Validator(schema, registry=_registry(version))


@cache
def _registry(version: str) -> Registry[Any]:
    definitions = Resource.from_contents(_shipped("_definitions.json", version))
    return definitions @ Registry()


def _shipped(file: str, version: str) -> Any:
    path = f"kubernetes-json-schema/v{version}-local-strict/{file}"
    return kubernetes_validate.utils.schema_contents(path, version)


def ray_cluster() -> dict[str, Any]:
    """The schema of a RayCluster, by the fields in kuberay.yaml."""
    path = Path(__file__).with_name("kuberay.yaml")
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = _schema(fields["spec"])
    kind, api_version = RAY_CLUSTER
    meta = {"$ref": f"{DEFINITIONS}/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    known = {"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": meta}
    return {**_all_of(known | {"spec": own}), "required": [*known, "spec"]}


def _all_of(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type as kuberay.yaml writes it."""
    if isinstance(kind, list):
        return {"enum": kind}
    if isinstance(kind, dict) and set(kind) == {"each"}:
        return {"type": "array", "items": _schema(kind["each"])}
    if isinstance(kind, dict):
        properties = {name.removesuffix("!"): _schema(one) for name, one in kind.items()}
        needed = [name.removesuffix("!") for name in kind if name.endswith("!")]
        return {**_all_of(properties), "required": needed}
    if "." in kind:
        return {"$ref": f"{DEFINITIONS}/io.k8s.api.{kind}"}
    if kind == "texts":
        return {"type": "object", "additionalProperties": {"type": "string"}}
    return {"type": ["integer", "string"] if kind == "size" else kind}


ANYWHERE = "0.0.0.0/0"
DOOR = ("proxy", 8443)


def may_talk(manifests: list[Manifest], source: Pod | None, target: Pod, port: int) -> bool:
    """Whether a connection gets through, as Kubernetes judges it.

    Args:
        manifests: with all the policies that there are.
        source: None for somebody outside of the namespace.
        target: a pod of the namespace.
        port: of the target, TCP.
    """
    return _lets_in(manifests, source, target, port) and (
        source is None or _lets_out(manifests, source, target, port)
    )


def _lets_in(manifests: list[Manifest], source: Pod | None, target: Pod, port: int) -> bool:
    over = _over(manifests, target, "Ingress")
    return not over or any(
        _port_fits(rule, port) and _peer_fits(rule.get("from"), source)
        for spec in over
        for rule in spec.get("ingress", ())
    )


def _lets_out(manifests: list[Manifest], source: Pod, target: Pod, port: int) -> bool:
    over = _over(manifests, source, "Egress")
    return not over or any(
        _port_fits(rule, port) and _peer_fits(rule.get("to"), target)
        for spec in over
        for rule in spec.get("egress", ())
    )


def _over(manifests: list[Manifest], pod: Pod, way: str) -> list[Any]:
    """The policies that concern one way of a pod; where there is none, all is open."""
    specs = [one["spec"] for one in named(manifests, "NetworkPolicy").values()]
    return [
        spec
        for spec in specs
        if way in spec["policyTypes"] and selects(spec["podSelector"], pod.labels)
    ]


def _port_fits(rule: dict[str, Any], port: int) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        one.get("protocol", "TCP") == "TCP" and one.get("port") in (None, port) for one in ports
    )


def _peer_fits(peers: list[dict[str, Any]] | None, pod: Pod | None) -> bool:
    if not peers:
        return True  # no peer named is everybody
    return any(_one_fits(peer, pod) for peer in peers)


def _one_fits(peer: dict[str, Any], pod: Pod | None) -> bool:
    if "ipBlock" in peer:  # a pod has an address as well
        return bool(peer["ipBlock"]["cidr"] == ANYWHERE)
    if "namespaceSelector" in peer:
        return False  # all of them name other namespaces than ours
    return pod is not None and selects(peer["podSelector"], pod.labels)


def silent_by_default(manifests: list[Manifest]) -> Iterator[str]:
    """A pod that no other policy names talks to nobody, and nobody talks to it."""
    for name in named(manifests, "Namespace"):
        if not any(
            policy["metadata"]["namespace"] == name
            and policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
            for policy in named(manifests, "NetworkPolicy").values()
        ):
            yield f"no policy closes the namespace {name}"


def only_its_own(manifests: list[Manifest]) -> Iterator[str]:
    """From outside only the proxy can be reached; every policy means a pod, and names ports."""
    policies = named(manifests, "NetworkPolicy")
    for pod in pods(manifests):
        for port in (22, 5000, 5432, 6379, 8080, 8265, 8333, 8443, 10001):
            door = (pod.labels["app.kubernetes.io/component"], port) == DOOR
            if may_talk(manifests, None, pod, port) != door:
                yield f"{pod.name}: port {port} is {'closed to' if door else 'open for'} everybody"
    for name, policy in policies.items():
        spec = policy["spec"]
        rules = [*spec.get("ingress", ()), *spec.get("egress", ())]
        peers = [peer for rule in rules for peer in (*rule.get("from", ()), *rule.get("to", ()))]
        chosen = [
            spec["podSelector"],
            *(peer["podSelector"] for peer in peers if "podSelector" in peer),
        ]
        for selector in chosen:
            if not any(selects(selector, pod.labels) for pod in pods(manifests)):
                yield f"the policy {name} means no pod by {selector}"
        for rule in rules:
            named_all = {tuple(one) for one in (*rule.get("from", ()), *rule.get("to", ()))}
            if not rule.get("ports") and named_all != {("podSelector",)}:
                yield f"the policy {name} opens every port to more than our own pods"


def one_door(manifests: list[Manifest]) -> Iterator[str]:
    """No Service or Ingress publishes anything: the one who installs it publishes the proxy."""
    for manifest in manifests:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind in ("Ingress", "Gateway", "HTTPRoute"):
            yield f"{kind} {name} publishes something"
        if kind == "Service" and manifest["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"the Service {name} is {manifest['spec']['type']}"
        if kind == "RayCluster":
            head = manifest["spec"]["headGroupSpec"]
            if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP":
                yield f"{name}: Ray's head can be reached from outside"


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
