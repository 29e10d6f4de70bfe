"""Rules and dashboards ask for metrics that exist, and dashboards are whole."""

import re

import pytest

from infra.metrics import table
from tests.monitoring.prometheus import dashboards, panels, queries, recorded

# Of Ray's own, in rules and dashboards. That it exports them is looked at in test_scrape.py; the last needs a GPU.
RAY_OWN = {"ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total"}
NEEDS_GPU = {"ray_node_gpus_utilization"}
PROMETHEUS_OWN = {"up", "ALERTS"}
WORDS = {"and", "or", "unless", "by", "on", "bool", "group_left", "ignoring", "without", "offset"}

BOARDS = dashboards()


def metrics_in(expression: str) -> set[str]:
    """Names of metrics: what is neither text, label, function nor word of the language."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w:.])[A-Za-z_][\w:]*\b(?!\s*\()", bare)
    return {name for name in names if name not in WORDS}


def test_metrics_are_found_in_expressions() -> None:
    expression = 'max by (run) (a_b{run=~"x", c="d"} and on (W) s:live) / 3 > rate(e_total[5m]) or vector(0)'
    assert metrics_in(f"{expression} unless up == 1e3") == {"a_b", "s:live", "e_total", "up"}


def test_every_metric_that_is_asked_for_exists() -> None:
    known = (
        {name for metric in table() for name in metric.series}
        | RAY_OWN
        | NEEDS_GPU
        | PROMETHEUS_OWN
        | recorded()
    )
    asked = {where: metrics_in(expression) for where, expression in queries().items()}
    assert all(asked.values())
    assert {where: names - known for where, names in asked.items() if names - known} == {}
    assert set.union(*asked.values()) >= RAY_OWN | NEEDS_GPU


def test_every_metric_is_looked_at_somewhere() -> None:
    asked = set.union(*map(metrics_in, queries().values()))
    assert [metric.name for metric in table() if not asked & set(metric.series)] == []


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_whole(name: str) -> None:
    board = BOARDS[name]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "run"]
    assert variables["datasource"]["type"] == "datasource"
    # without Kubernetes no series has a namespace, which .* matches too
    assert all(
        variables[name]["includeAll"] and variables[name]["allValue"] == ".*" for name in ("namespace", "run")
    )
    assert any(panel["type"] == "alertlist" for panel in board["panels"])
    for panel in panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"] and panel["description"] and defaults["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
        assert all('namespace=~"$namespace"' in target["expr"] for target in panel["targets"])
        steps = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert steps[0] is None and steps[1:] == sorted(steps[1:])


@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_lies_on_another(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_dashboards_have_names_of_their_own() -> None:
    assert len({board["uid"] for board in BOARDS.values()}) == len({b["title"] for b in BOARDS.values()}) == 3
