"""The rules that the Kubernetes manifests keep to, and that each rule sees a breach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.manifests import RULES, WHOLE, Pod, breaches, may_talk, named, pods, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.manifests import Manifest

    Breach = Callable[[list[Manifest]], Any]


@pytest.mark.parametrize("name", WHOLE)
def test_the_manifests_keep_every_rule(name: str) -> None:
    """Not root, read-only, measured, watched, silent, one door, no password: see each rule."""
    assert not breaches(whole(name))


def pod(manifests: list[Manifest], name: str) -> Pod:
    return next(one for one in pods(manifests) if one.name == name)


def container(manifests: list[Manifest], name: str) -> dict[str, Any]:
    found: dict[str, Any] = pod(manifests, name).own_containers[0]
    return found


def spec(manifests: list[Manifest], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = named(manifests, kind)[name]["spec"]
    return found


def ray(manifests: list[Manifest]) -> dict[str, Any]:
    return spec(manifests, "RayCluster", "ray")


def policy(manifests: list[Manifest], name: str) -> dict[str, Any]:
    return spec(manifests, "NetworkPolicy", name)


# What somebody could change, and the rule that has to see it
PLANTED: tuple[tuple[str, str, Breach], ...] = (
    ("no_root", "root in a pod",
     lambda m: pod(m, "mlflow").spec["securityContext"].pop("runAsUser")),
    ("no_root", "root in a container",
     lambda m: container(m, "ray-gpu")["securityContext"].update(runAsUser=0)),
    ("read_only", "a writable root",
     lambda m: container(m, "init")["securityContext"].pop("readOnlyRootFilesystem")),
    ("read_only", "no /tmp", lambda m: container(m, "proxy")["volumeMounts"].pop(0)),
    ("read_only", "a writable root beside the head",
     lambda m: ray(m)["autoscalerOptions"]["securityContext"].pop("readOnlyRootFilesystem")),
    ("read_only", "an endless volume",
     lambda m: pod(m, "ray-cpu").spec["volumes"][1]["emptyDir"].clear()),
    ("read_only", "a volume that is not there", lambda m: pod(m, "launch").spec["volumes"].pop()),
    ("no_rights", "capabilities",
     lambda m: container(m, "mlflow")["securityContext"]["capabilities"].update(add=["NET_RAW"])),
    ("no_rights", "escalation",
     lambda m: container(m, "s3")["securityContext"].pop("allowPrivilegeEscalation")),
    ("no_rights", "no filter of system calls",
     lambda m: pod(m, "postgres").spec["securityContext"].pop("seccompProfile")),
    ("nothing_of_the_host", "its network",
     lambda m: pod(m, "ray-head").spec.update(hostNetwork=True)),
    ("nothing_of_the_host", "its files",
     lambda m: pod(m, "ray-cpu").spec["volumes"].append({"name": "d", "hostPath": {"path": "/"}})),
    ("nothing_of_the_host", "its port",
     lambda m: container(m, "proxy")["ports"][0].update(hostPort=8443)),
    ("no_token", "a token", lambda m: pod(m, "ray-gpu").spec.pop("automountServiceAccountToken")),
    ("no_token", "an account's token",
     lambda m: named(m, "ServiceAccount")["hpo"].update(automountServiceAccountToken=True)),
    ("no_token", "an account without KubeRay's rights",
     lambda m: pod(m, "ray-head").spec.update(serviceAccountName="hpo")),
    ("no_service_links", "MLFLOW_PORT set",
     lambda m: pod(m, "mlflow").spec.pop("enableServiceLinks")),
    ("watched", "no probe", lambda m: container(m, "ray-cpu").pop("livenessProbe")),
    ("watched", "a probe at no port",
     lambda m: container(m, "mlflow")["readinessProbe"]["httpGet"].update(port="web")),
    ("measured", "no request",
     lambda m: container(m, "launch")["resources"]["requests"].pop("cpu")),
    ("measured", "no limit beside the head",
     lambda m: ray(m)["autoscalerOptions"]["resources"].pop("limits")),
    ("measured", "too much memory",
     lambda m: container(m, "proxy")["resources"]["requests"].update(memory="1Gi")),
    ("pinned", "any version",
     lambda m: container(m, "postgres").update(image="docker.io/postgres")),
    ("pinned", "latest", lambda m: container(m, "s3").update(image="localhost:5000/weed:latest")),
    ("no_passwords", "a Secret",
     lambda m: m.append({"kind": "Secret", "metadata": {"name": "s", "namespace": "hpo"}})),
    ("no_passwords", "in an address",
     lambda m: named(m, "ConfigMap")["studies"]["data"].update(X="postgresql://hpo:word@db/hpo")),
    ("no_passwords", "in a ConfigMap",
     lambda m: named(m, "ConfigMap")["s3"]["data"].update({"S3_TOKEN": "word"})),
    ("no_passwords", "in a variable",
     lambda m: container(m, "proxy")["env"].append({"name": "PROXY_PASSWORD", "value": "word"})),
    ("no_passwords", "in a command line",
     lambda m: container(m, "launch")["args"].append("$(RAY_AUTH_TOKEN)")),
    ("outlasts_a_machine", "no budget",
     lambda m: m.remove(named(m, "PodDisruptionBudget")["mlflow"])),
    ("outlasts_a_machine", "the head's budget as a share",
     lambda m: spec(m, "PodDisruptionBudget", "ray-head").update(minAvailable="50%")),
    ("outlasts_a_machine", "a single pod",
     lambda m: spec(m, "Deployment", "proxy").update(replicas=1)),
    ("outlasts_a_machine", "a budget over nothing",
     lambda m: spec(m, "PodDisruptionBudget", "proxy")["selector"].update(matchLabels={"a": "b"})),
    ("ray_asks_for_its_token", "no token", lambda m: ray(m)["authOptions"].update(mode="disabled")),
    ("ray_asks_for_its_token", "Ray's pages",
     lambda m: ray(m)["headGroupSpec"]["rayStartParams"].pop("include-dashboard")),
    ("restricted", "a namespace for all",
     lambda m: named(m, "Namespace")["hpo"]["metadata"].pop("labels")),
    ("restricted", "elsewhere",
     lambda m: named(m, "Deployment")["mlflow"]["metadata"].update(namespace="default")),
    ("silent_by_default", "open to the outside by default",
     lambda m: policy(m, "nobody-to-anybody")["policyTypes"].remove("Egress")),
    ("only_its_own", "PostgreSQL open to all",
     lambda m: policy(m, "postgres-from")["ingress"][0].pop("from")),
    ("only_its_own", "Ray open to all", lambda m: policy(m, "ray-to-ray")["ingress"].append({})),
    ("only_its_own", "the proxy closed", lambda m: policy(m, "proxy").update(ingress=[])),
    ("only_its_own", "a policy for nobody",
     lambda m: policy(m, "to-mlflow")["podSelector"].update(matchLabels={"a": "b"})),
    ("only_its_own", "every port of the world",
     lambda m: policy(m, "ray-head-to-kubernetes")["egress"][0].pop("ports")),
    ("one_door", "a port of every machine",
     lambda m: spec(m, "Service", "mlflow").update(type="NodePort")),
    ("one_door", "an Ingress",
     lambda m: m.append({"kind": "Ingress", "metadata": {"name": "i", "namespace": "hpo"}})),
    ("one_door", "Ray's head outside",
     lambda m: ray(m)["headGroupSpec"].update(serviceType="LoadBalancer")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "breach"), [(rule, breach) for rule, _, breach in PLANTED],
    ids=[f"{rule}: {what}" for rule, what, _ in PLANTED],
)  # fmt: skip
def test_a_breach_is_seen(rule: str, breach: Breach) -> None:
    """Each rule sees what it is for: with a breach planted, it and no other has faults."""
    manifests = whole("try-out")
    breach(manifests)
    assert {fault.partition(":")[0] for fault in breaches(manifests)} == {rule}


def test_every_rule_has_a_breach() -> None:
    """No rule stands here that nothing shows to see anything."""
    assert {rule for rule, _, _ in PLANTED} == {rule.__name__ for rule in RULES}


def test_pods_reach_what_they_need_and_nothing_else() -> None:
    """Who talks to whom, all of it, in the installation that has all its parts."""
    manifests = whole("try-out")
    ports = {"mlflow": 5000, "dashboard": 8080, "postgres": 5432, "s3": 8333, "proxy": 8443}
    ray_pods = {"ray-head": 6379, "ray-cpu": 30000, "ray-gpu": 30000, "launch": 30000}
    by_name = {one.name: one for one in pods(manifests)}
    seen = {
        source: {
            target
            for target, port in (ports | ray_pods).items()
            if target != source and may_talk(manifests, by_name[source], by_name[target], port)
        }
        for source in by_name
    }
    everything = {"mlflow", "postgres", "s3", *ray_pods}
    assert seen == {
        **{name: everything - {name} for name in ray_pods},
        "init": {"postgres", "s3"},
        "mlflow": {"postgres", "s3"},
        "dashboard": {"postgres"},
        "proxy": {"mlflow", "dashboard"},
        "postgres": set(),
        "s3": set(),
    }
