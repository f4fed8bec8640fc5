"""Who may talk to whom by the NetworkPolicies of some manifests, and the rules about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.manifests import Pod, named, pods, selects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.manifests import Manifest

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
