"""Faults of Kubernetes manifests against Kubernetes' own schemas and KubeRay's fields, offline."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate.utils
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

if TYPE_CHECKING:
    from support.manifests import Manifest

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
