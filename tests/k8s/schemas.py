"""Whether a resource has the fields of its kind, and no others.

Kubernetes' own kinds by kubernetes-validate; KubeRay's by the schemas of its CRDs, their pod templates by
kubernetes-validate once more; those of Prometheus' operator by cloudcoil's models; Kueue's LocalQueue by the one that
we use. What a server would do beside (defaults, CEL rules, its webhooks) is not done here; tests/k8s/rules.py has the
part of it that concerns our manifests.
"""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
import yaml
from kubernetes_validate.utils import schema_contents

from tests.k8s.rendered import REPOSITORY, Resource, jobs, name

KUBERNETES = ("1.32", "1.37")  # the oldest and the newest that docs/kubernetes.md names


def problems(resource: Resource) -> list[str]:
    """What a strict server would refuse in one resource."""
    return _problems(json.dumps(resource))


@cache
def _problems(text: str) -> list[str]:
    return list(_found(json.loads(text)))


def _found(resource: Resource) -> Iterator[str]:
    group = resource["apiVersion"].split("/")[0]
    known = {"ray.io": ("RayJob", "RayCronJob"), "monitoring.coreos.com": ("PodMonitor", "PrometheusRule")}
    if resource["kind"] not in known.get(group, (resource["kind"],)):
        yield f"{name(resource)}: {resource['apiVersion']} has no such kind, or none that is checked"
    elif group == "ray.io":
        yield from _errors(_kuberay(resource["kind"]), resource)
        yield from _built_in({"apiVersion": "v1", "kind": "ConfigMap", "metadata": resource["metadata"]})
        yield from _pod_templates(resource)
    elif group == "monitoring.coreos.com":
        yield from _errors(_operator(resource["kind"]), resource)
    elif group == "kueue.x-k8s.io":
        yield from _errors(LOCAL_QUEUE, resource)
    else:
        yield from _built_in(resource)


def _built_in(resource: Resource) -> Iterator[str]:
    for version in KUBERNETES:
        try:
            schema = _kubernetes(resource["kind"], resource["apiVersion"], version)
        except FileNotFoundError:
            yield f"{name(resource)}: Kubernetes {version} has no such kind in {resource['apiVersion']}"
            return
        found = list(_errors(schema, resource))
        if found:
            yield from found
            return


@cache
def _kubernetes(kind: str, api_version: str, version: str) -> jsonschema.Draft202012Validator:
    """As kubernetes_validate.validate(..., strict=True), which would read its 1.5 MB of definitions at each call."""
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    group, _, number = api_version.rpartition("/")
    kept = "-".join(filter(None, [group.split(".")[0], number]))
    schema, definitions = (
        schema_contents(f"{folder}/{file}.json", version)
        for file in (f"{kind.lower()}-{kept}", "_definitions")
    )
    registry = referencing.Registry().with_resources(
        [(part["$id"], referencing.Resource.from_contents(part)) for part in (schema, definitions)]
    )
    return jsonschema.Draft202012Validator(schema, registry=registry)


def _pod_templates(resource: Resource) -> Iterator[str]:
    for where, spec in jobs([resource]):
        cluster = spec.get("rayClusterSpec", {})
        parts = [cluster.get("headGroupSpec", {}), *cluster.get("workerGroupSpecs", [])]
        for template in [spec.get("submitterPodTemplate"), *(part.get("template") for part in parts)]:
            if template:
                pod = {
                    "apiVersion": "v1",
                    "kind": "PodTemplate",
                    "metadata": {"name": "pod"},
                    "template": template,
                }
                yield from (f"{where}: {problem}" for problem in _built_in(pod))


def _errors(schema: jsonschema.Draft202012Validator, resource: Resource) -> Iterator[str]:
    for error in schema.iter_errors(resource):
        yield f"{name(resource)}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"


def closed(schema: Any) -> Any:
    """The schema with every object limited to the properties that it names."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(part) for key, part in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and "type" in schema
    if is_object and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


@cache
def _kuberay(kind: str) -> jsonschema.Draft202012Validator:
    shared = Path(os.environ.get("SIAMDIFF_SHARED") or REPOSITORY.parent / "shared")
    path = shared / "schemas" / "kuberay" / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(
            f"{path} is missing: KubeRay's kinds are held to the schemas of its CRDs; set SIAMDIFF_SHARED"
        )
    definition = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    schema = closed(versions["v1"]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return jsonschema.Draft202012Validator(schema)


@cache
def _operator(kind: str) -> jsonschema.Draft202012Validator:
    from cloudcoil.models.prometheus_operator import v1

    return jsonschema.Draft202012Validator(closed(getattr(v1, kind).model_json_schema(by_alias=True)))


def _object(**properties: Any) -> Any:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


LOCAL_QUEUE = jsonschema.Draft202012Validator(
    _object(
        apiVersion={"const": "kueue.x-k8s.io/v1beta2"},
        kind={"const": "LocalQueue"},
        metadata=_object(name={"type": "string"}, namespace={"type": "string"}),
        spec=_object(clusterQueue={"type": "string"}),
    )
)
