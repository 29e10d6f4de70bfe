"""A real Prometheus scrapes a real Ray through the shipped configuration: every panel and every alert has its data."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from tests import jobs
from tests.monitoring.prometheus import Server, alerts, dashboards, environment, queries, recorded
from tests.monitoring.test_names import NEEDS_GPU, RAY_OWN
from tests.raylets import Cluster, free_port
from tests.sets import small_config

# Empty in every scrape on a machine without GPUs.
WITHOUT_GPU = dict.fromkeys(("training: GPUs A", "generation: GPUs A"), "the machine has none")
# Empty while a demo runs as it should on such a machine.
CALM = WITHOUT_GPU | {
    "training: Ended as diverged A": "it did not",
    "training: GPU memory A": "there is none",
    "training: Share of the GPU's peak A": "there is none",
    "training: Dollars A": "a CPU has no cluster.price",
    "training: Dollars B": "the same",
    "training: Dollars C": "there is no budget",
    "generation: Dollars B": "a CPU has no cluster.price",
    "generation: Dollars C": "there is no budget",
    "store: Errors per second A": "there is none before the first",
    "store: Attempts again, per second A": "there is none before the first",
    **{f"alert {rule['alert']}": "nothing is wrong" for rule in alerts()},
    **{f"{board}: annotation Alerts": "no alert fires" for board in dashboards()},
}
PROGRESS = "ray_siamdiff_job_progress_timestamp_seconds"


@pytest.fixture(scope="module")
def told() -> Iterator[Server]:
    """Prometheus beside a driver that tells every metric, of jobs that went wrong in each way that has an alert."""
    folder = Path(tempfile.mkdtemp(prefix="m-"))  # of Ray's sockets too: their paths may not be long
    # as often as a Ray may export, so that the test need not wait
    surroundings = environment(folder) | {"RAY_metrics_report_interval_ms": "1000"}
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.monitoring.told"], env=surroundings, stdin=subprocess.PIPE
    )
    server = Server(folder, folder / "ray" / "prom_metrics_service_discovery.json", free_port(), interval=1)
    try:
        with server:
            yield server
    finally:
        driver.communicate(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def with_data(server: Server, asked: Set[str]) -> set[str]:
    """Of these queries, by where they are, those that give something now."""
    known = queries()
    return {where for where in asked if server.ask(known[where])}


def without_data(server: Server, seconds: float) -> set[str]:
    """Where the queries are that give nothing, after some patience."""
    deadline, left = time.monotonic() + seconds, set(queries())
    while left - WITHOUT_GPU.keys() and time.monotonic() < deadline:
        left -= with_data(server, left)
        time.sleep(0.5)
    return left


@pytest.mark.cluster
def test_every_panel_and_every_alert_finds_what_it_asks_for(told: Server) -> None:
    told.wait_for(PROGRESS, 60)
    assert without_data(told, 20) == WITHOUT_GPU.keys()
    assert told.names() >= RAY_OWN | recorded() and not told.names() & NEEDS_GPU


@pytest.mark.cluster
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_running_demo_shows_itself_and_sets_off_no_alarm(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "2000")
    config = small_config(
        f"{tmp_path}/root",
        train={
            "engine": "deepspeed", "steps": 40, "checkpoint_steps": 10,
            "validation_steps": 10, "preview_steps": 10, "preview_samples": 4,
        },
        generate={"steps": 20, "folds": 4, "shard_size": 3, "batch_size": 1},
        cluster={"schedule_hours": 24},
    )  # fmt: skip
    seen: set[str] = set()
    with Cluster() as ray:
        ray.add(cpus=2)
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, ray.environment[name])
        discovery = ray.folder / "prom_metrics_service_discovery.json"
        with Server(tmp_path, discovery, free_port(), interval=1) as server:
            server.wait_for("up", 60)
            for job in ("train", "generate"):
                process = jobs.start(job, "--config", jobs.config_file(config, tmp_path), log=tmp_path / job)
                while process.poll() is None:
                    seen |= with_data(server, queries().keys() - seen)
                    time.sleep(2)
                assert process.returncode == 0, (tmp_path / job).read_text()[-3000:]
                ended = f'ray_siamdiff_job_end_timestamp_seconds_total{{stage="{job}", end="finished"}} > time() - 60'
                server.wait_for(ended, 20)  # also the last that the process had to tell
            time.sleep(5)
            seen |= with_data(server, queries().keys() - seen)
            assert server.names() >= RAY_OWN
    assert sorted(queries().keys() - seen) == sorted(CALM)
