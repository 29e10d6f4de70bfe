"""The manifests as `kubectl kustomize` renders them, and what they have in common."""

import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
OVERLAYS = ("kind", "eks", "eks-kueue")
NAMESPACE = "siamdiff"

Resource = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod template, and the labels that its pod will have: KubeRay adds some of its own."""

    where: str
    template: Resource
    labels: dict[str, str]
    start: dict[str, str] | None = None  # of `ray start`; None where that does not run

    @property
    def spec(self) -> Resource:
        return self.template["spec"]

    @property
    def containers(self) -> list[Resource]:
        return self.spec["containers"]


def render(overlay: str) -> list[Resource]:
    """All resources of an overlay: of its namespace, then its jobs. The caller's own copy."""
    return deepcopy(_rendered(overlay))


@cache
def _rendered(overlay: str) -> list[Resource]:
    folder = REPOSITORY / "k8s" / "overlays" / overlay
    text = f"{kustomize(folder)}\n---\n{kustomize(folder / 'jobs')}"
    return [resource for resource in yaml.load_all(text, Loader=yaml.CSafeLoader) if resource]


def kustomize(folder: Path) -> str:
    """What `kubectl kustomize` makes of a folder."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is missing: the manifests are rendered by `kubectl kustomize`")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # kustomize warns of deprecated fields
    return done.stdout


def name(resource: Resource) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


def jobs(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """Name and specification of every RayJob, also of the scheduled one."""
    for resource in of_kind(resources, "RayJob", "RayCronJob"):
        spec = resource["spec"]
        yield name(resource), spec if resource["kind"] == "RayJob" else spec.get("jobTemplate", {})


def pods(resources: list[Resource]) -> Iterator[Pod]:
    """Every pod template."""
    for where, spec in jobs(resources):
        submitter = spec["submitterPodTemplate"]
        ours = submitter["metadata"]["labels"]
        yield Pod(f"{where}: submitter", submitter, ours | {"ray.io/originated-from-crd": "RayJob"})
        cluster = spec["rayClusterSpec"]
        groups = [("head", "head", cluster["headGroupSpec"])]
        groups += [("worker", group["groupName"], group) for group in cluster["workerGroupSpecs"]]
        for node, group, part in groups:
            labels = part["template"]["metadata"]["labels"] | {
                "ray.io/is-ray-node": "yes",
                "ray.io/node-type": node,
                "ray.io/group": "headgroup" if node == "head" else group,
            }
            yield Pod(f"{where}: {group}", part["template"], labels, part["rayStartParams"])
    for resource in of_kind(resources, "Deployment"):
        template = resource["spec"]["template"]
        yield Pod(name(resource), template, template["metadata"]["labels"])
