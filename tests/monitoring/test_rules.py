"""The shipped rules, by Prometheus' own tool: each alert stays silent and fires."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.monitoring.prometheus import MONITORING, REPOSITORY, alerts, tool

TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))


def promtool(*arguments: str, folder: Path = MONITORING) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], cwd=folder, capture_output=True, text=True)


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    files = [str(path) for path in sorted((MONITORING / "rules").glob("*.yaml"))]
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_stay_silent_and_fire(path: Path) -> None:
    done = promtool("test", "rules", path.name, folder=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_left_out() -> None:
    asked = [
        case
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in alerts()}
    assert {case["alertname"] for case in asked if case["exp_alerts"]} == names
    assert {case["alertname"] for case in asked if not case["exp_alerts"]} == names


def test_each_alert_says_how_bad_it_is_what_it_is_and_what_to_do() -> None:
    book = (REPOSITORY / "docs" / "runbook.md").read_text()
    anchors = {title.lower() for title in re.findall(r"^## (\w+)$", book, re.MULTILINE)}
    for rule in alerts():
        about = rule["annotations"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert about.keys() == {"summary", "description", "runbook_url"}
        assert "$value" in about["description"] and "$labels" in about["summary"]
        assert about["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert anchors == {rule["alert"].lower() for rule in alerts()}
