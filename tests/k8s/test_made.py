"""Rules and dashboards reach Prometheus' operator and Grafana's sidecar as they lie in infra/monitoring."""

import json
from pathlib import Path

import yaml

from infra import manifests
from tests.k8s.references import known_metrics
from tests.k8s.rendered import kustomize, of_kind, render


def test_what_is_made_is_up_to_date() -> None:
    for path, text in manifests.made().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is old: run `python -m infra.manifests`"


def test_the_rule_holds_every_group_of_every_file() -> None:
    groups = []
    for path in sorted((manifests.MONITORING / "rules").glob("*.yaml")):
        groups += yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for overlay in ("eks", "eks-kueue"):
        (rule,) = of_kind(render(overlay), "PrometheusRule")
        assert rule["spec"]["groups"] == groups


def test_every_dashboard_is_a_config_map() -> None:
    dashboards = {
        path.name: path.read_text() for path in (manifests.MONITORING / "dashboards").glob("*.json")
    }
    maps = [m for m in of_kind(render("eks"), "ConfigMap") if m["metadata"]["name"].startswith("dashboard-")]
    assert {key: text for map_ in maps for key, text in map_["data"].items()} == dashboards
    assert all(map_["metadata"]["labels"] == {"grafana_dashboard": "1"} for map_ in maps)


def test_groups_keep_the_order_of_files_and_their_text(tmp_path: Path) -> None:
    for file, alert in (("b.yaml", "Later"), ("a.yaml", "Sooner")):
        rule = {
            "alert": alert,
            "expr": "up == 0",
            "annotations": {"summary": "{{ $labels.run }}: 50 % \u2013 'no' \"end\""},
        }
        (tmp_path / file).write_text(yaml.safe_dump({"groups": [{"name": alert, "rules": [rule]}]}))
    made = manifests.prometheus_rule(tmp_path)
    assert [group["name"] for group in made["spec"]["groups"]] == ["Sooner", "Later"]
    assert "\u2013 'no' \"end\"" in made["spec"]["groups"][0]["rules"][0]["annotations"]["summary"]


def test_dashboards_become_config_maps_of_their_name(tmp_path: Path) -> None:
    folder = tmp_path / "dashboards"
    folder.mkdir()
    (folder / "training.json").write_text(json.dumps({"title": "Training"}))
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(manifests.dashboards(folder)))
    map_ = yaml.safe_load(kustomize(tmp_path))
    assert map_["metadata"]["name"] == "dashboard-training"
    assert json.loads(map_["data"]["training.json"]) == {"title": "Training"}


def test_our_metrics_are_known_as_prometheus_has_them() -> None:
    assert {"ray_siamdiff_train_step", "ray_siamdiff_train_loss"} <= known_metrics()
