"""The Kubernetes manifests are valid, as Kubernetes and KubeRay know them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support.manifests import (
    EXAMPLE,
    FOLDERS,
    KUBERNETES,
    VERSIONS,
    documents,
    faults,
    named,
    put_together,
    whole,
)

if TYPE_CHECKING:
    from support.manifests import Manifest

KUBECTL = shutil.which("kubectl")


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_kubernetes_takes_every_manifest(folder: str, kubernetes: str) -> None:
    """Each is right by the schemas of that Kubernetes and KubeRay's fields; none is unknown."""
    assert not [
        fault
        for manifest in put_together(KUBERNETES / folder)
        for fault in faults(manifest, kubernetes)
    ]


@pytest.mark.parametrize(
    ("kind", "where", "value"),
    [
        ("Deployment", "spec.template.spec.enableServiceLink", False),
        ("Deployment", "spec.replicas", "two"),
        ("NetworkPolicy", "spec.podSelectors", {}),
        ("RayCluster", "spec.enableInTreeAutoscaler", True),
        ("RayCluster", "spec.authOptions.mode", "tokens"),
        ("RayCluster", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("RayCluster", "spec.headGroupSpec.template.spec.terminationGracePeriod", 90),
        ("RayCluster", "spec.autoscalerOptions.securityContext.readOnly", True),
    ],
)
def test_a_misspelt_field_is_seen(kind: str, where: str, value: object) -> None:
    """The check sees unknown fields and wrong types, in KubeRay's parts and in the pods inside."""
    manifest: Any = next(iter(named(whole("try-out"), kind).values()))
    *path, last = where.split(".")
    inside = manifest
    for name in path:
        inside = inside[name]
    inside[last] = value
    assert faults(manifest, VERSIONS[-1])


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed here")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kubectl_puts_together_the_same(folder: str) -> None:
    """What the other tests look at is what `kubectl apply -k` applies."""
    assert KUBECTL is not None
    done = subprocess.run(
        [KUBECTL, "kustomize", str(KUBERNETES / folder)], check=True, capture_output=True, text=True
    )
    theirs = [one for one in yaml.safe_load_all(done.stdout) if one]
    assert _by_name(theirs) == _by_name(put_together(KUBERNETES / folder))


def _by_name(manifests: list[Manifest]) -> dict[str, Manifest]:
    found = {f"{one['kind']}/{one['metadata']['name']}": one for one in manifests}
    assert len(found) == len(manifests), "two manifests of one name"
    return found


def test_no_file_is_forgotten() -> None:
    """Every manifest is listed by its folder's kustomization, but for the example of Secrets."""
    listed = {
        (folder / name).resolve()
        for folder in KUBERNETES.iterdir()
        for name in documents(folder / "kustomization.yaml")[0]["resources"]
    }
    there = {path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert there - listed == {EXAMPLE}
