"""What of k8s/ is made from other files: `python -m infra.manifests` writes it, a test holds it to them.

Prometheus' operator wants the rules inside a resource of its own, and Grafana's sidecar each dashboard in a ConfigMap,
which kustomize makes from a list of files: neither can take a folder as it is.
"""

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
MONITORING = REPOSITORY / "infra" / "monitoring"
RULES = REPOSITORY / "k8s" / "monitoring" / "prometheus-rule.yaml"
DASHBOARDS = MONITORING / "kustomization.yaml"

MADE = "# Made by `python -m infra.manifests` from {}.\n"


def prometheus_rule(folder: Path) -> dict[str, Any]:
    """The groups of all rule files of a folder, in the order of their names, as a PrometheusRule."""
    groups = [
        group
        for path in sorted(folder.glob("*.yaml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "siamdiff"},
        "spec": {"groups": groups},
    }


def dashboards(folder: Path) -> dict[str, Any]:
    """A kustomization that makes a ConfigMap `dashboard-NAME` of each NAME.json of a folder, which lies beside it."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "generatorOptions": {"disableNameSuffixHash": True},
        "configMapGenerator": [
            {"name": f"dashboard-{path.stem}", "files": [f"{folder.name}/{path.name}"]}
            for path in sorted(folder.glob("*.json"))
        ],
    }


def made() -> dict[Path, str]:
    """Each file that is made, and its text."""
    return {
        RULES: MADE.format("infra/monitoring/rules") + _text(prometheus_rule(MONITORING / "rules")),
        DASHBOARDS: MADE.format("infra/monitoring/dashboards") + _text(dashboards(MONITORING / "dashboards")),
    }


def _text(resource: dict[str, Any]) -> str:
    return yaml.safe_dump(resource, sort_keys=False, width=1000, allow_unicode=True)


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")
