"""A real Prometheus and its promtool: found on PATH, else Debian's package unpacked beside the tests' interpreter."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
MONITORING = REPOSITORY / "infra" / "monitoring"
UNPACKED = REPOSITORY / ".venv" / "prometheus"  # never in the repository


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; skips the test where neither PATH nor Debian's archive has it."""
    found = shutil.which(name)
    if found:
        return found
    binary = UNPACKED / "usr" / "bin" / name
    if not binary.exists():
        _unpack()
    return str(binary)


def _unpack() -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip("prometheus is not on PATH, and there is no apt-get to fetch Debian's package with")
    with tempfile.TemporaryDirectory(prefix="prometheus-", dir=UNPACKED.parent) as folder:
        done = subprocess.run(
            ["apt-get", "download", "prometheus"], cwd=folder, capture_output=True, text=True
        )
        packages = list(Path(folder).glob("*.deb"))
        if not packages:
            pytest.skip(
                f"prometheus is not on PATH, and apt-get cannot fetch it: {done.stderr.strip()[-200:]}"
            )
        whole = Path(folder) / "whole"
        subprocess.run(["dpkg", "-x", str(packages[0]), str(whole)], check=True, capture_output=True)
        try:
            whole.rename(UNPACKED)
        except OSError:  # another test process was faster
            assert UNPACKED.exists()


def alerts() -> list[dict[str, Any]]:
    """The shipped alerts."""
    return [rule for rule in _rules() if "alert" in rule]


def recorded() -> set[str]:
    """Names of the series that the shipped rules record."""
    return {rule["record"] for rule in _rules() if "record" in rule}


def _rules() -> list[dict[str, Any]]:
    files = sorted((MONITORING / "rules").glob("*.yaml"))
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    """The shipped dashboards by name."""
    return {
        path.stem: json.loads(path.read_text()) for path in sorted((MONITORING / "dashboards").glob("*.json"))
    }


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that ask Prometheus something."""
    return [panel for panel in board["panels"] if panel.get("targets")]


@cache
def queries() -> dict[str, str]:
    """{where: expression} of each panel's targets and each alert, for all namespaces and runs."""
    asked = {
        f"{name}: {panel['title']} {target['refId']}": target["expr"]
        for name, board in dashboards().items()
        for panel in panels(board)
        for target in panel["targets"]
    }
    asked |= {
        f"{name}: annotation {one['name']}": one["expr"]
        for name, board in dashboards().items()
        for one in board["annotations"]["list"]
    }
    filled = {where: expr.replace("$namespace", ".*").replace("$run", ".*") for where, expr in asked.items()}
    return filled | {f"alert {rule['alert']}": rule["expr"] for rule in alerts()}


class Server:
    """A Prometheus with the shipped configuration, but for the place of Ray's list of targets, the port and the pace.

    Args:
        folder: an empty one, for its data.
        discovery: Ray's list of targets.
        port: where it listens, on loopback.
        interval: seconds between two scrapes.
    """

    def __init__(self, folder: Path, discovery: Path, port: int, interval: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        shipped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        shipped["global"] = dict.fromkeys(shipped["global"], f"{interval}s")
        shipped["rule_files"] = [str(MONITORING / pattern) for pattern in shipped["rule_files"]]
        (found,) = shipped["scrape_configs"][0]["file_sd_configs"]
        found |= {"files": [str(discovery)], "refresh_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(shipped))
        self._command = [
            tool("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        ]  # fmt: skip
        self._log = folder / "prometheus.log"

    def __enter__(self) -> Self:
        with open(self._log, "wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=30) as answer:
            return json.load(answer)["data"]["result"]

    def wait_for(self, expression: str, seconds: float) -> None:
        """Waits until an expression gives something."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.ask(expression):
                    return
            except OSError as error:  # it still starts
                assert self._process.poll() is None, f"{error}: {self._log.read_text()}"
            assert time.monotonic() < deadline, f"nothing for {expression}"
            time.sleep(0.2)

    def names(self) -> set[str]:
        """Every metric that it knows."""
        with urllib.request.urlopen(f"{self.url}/api/v1/label/__name__/values", timeout=30) as answer:
            return set(json.load(answer)["data"])


def environment(folder: Path) -> dict[str, str]:
    """Of a process whose Ray writes its list of targets to `folder`/ray, and whose modules are the checkout's."""
    path = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {**os.environ, "RAY_TMPDIR": str(folder), "PYTHONPATH": path}
