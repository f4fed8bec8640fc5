"""The Kubernetes manifests of deploy/kubernetes: read, put together, and the pods in them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml
from support.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Manifest = dict[str, Any]

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
