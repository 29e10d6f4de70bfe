"""Forty kills in a row: of workers, of the driver with its cluster, of the whole job by a polite signal."""

import json
import logging
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from infra.train import train
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.training import bases, checkpoint
from tests import jobs
from tests.sets import small_config, write_phantoms

KILLS = int(os.environ.get("SIAMDIFF_KILLS", "40"))
STEPS_PER_KILL = (
    12  # more than a run gets ahead between two kills, so that it is still at work at the last one
)

log = logging.getLogger(__name__)


def configure(root: str, run: str, checkpoint_steps: int | None) -> Config:
    settings = {
        "run": run,
        "steps": STEPS_PER_KILL * KILLS,
        "checkpoint_steps": checkpoint_steps,
        "engine": "deepspeed",
        "workers": 2,
        "log_steps": 5,
        "ema_decay": 0.9,
        "clip_norm": 1.0,
        "schedule": "cosine",
        "validation_steps": 10**6,
        "preview_steps": 10**6,
        "max_restarts": 10**6,
    }
    return small_config(root, train=settings)


def weights(config: Config) -> dict[str, bytes]:
    """Every tensor file of the model, byte by byte."""
    folder = f"{config.run_uri()}/model"
    return {
        name: storage.read_bytes(f"{folder}/{name}")
        for name in storage.list_files(folder)
        if name.endswith(".safetensors")
    }


def consumed(config: Config) -> list[int]:
    folder = f"{config.run_uri()}/logs/keys"
    lines = [line for name in storage.list_files(folder) for line in _lines(f"{folder}/{name}")]
    return [position for line in lines for position in json.loads(line)["positions"]]


def _lines(uri: str) -> list[bytes]:
    return storage.read_bytes(uri).splitlines()


def newest(config: Config) -> int:
    return max(checkpoint.complete_steps(config.run_uri()), default=0)


def moment(dice: random.Random, config: Config, process: subprocess.Popen[bytes]) -> None:
    """Waits for the next kill: mostly until a checkpoint came, and a little longer; at times for no reason at all."""
    if dice.random() < 0.25:
        deadline = time.monotonic() + dice.uniform(0, 25)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        return
    before = newest(config)
    deadline = time.monotonic() + 180
    while newest(config) == before and process.poll() is None:
        assert time.monotonic() < deadline, "no new checkpoint in three minutes"
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 1))


def kill(dice: random.Random, process: subprocess.Popen[bytes]) -> str:
    """One kill; what it hit."""
    kind = dice.choices(["worker", "driver", "signal"], [6, 3, 1])[0]
    if kind == "worker":
        victims = jobs.descendants(process, "ray::RayTrainWorker")
        if not victims:
            return "nothing"
        victims[dice.randrange(len(victims))].send_signal(signal.SIGKILL)
    elif kind == "driver":
        jobs.kill_tree(process)
    else:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 1
    return kind


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(3600)
def test_random_kills_in_a_row_change_no_bit_of_the_weights(s3, tmp_path: Path):
    root = s3.new_root()
    write_phantoms(f"{root}/data")
    bases.prepare_base(small_config(root))
    whole = configure(root, "whole", None)
    train(whole, True)

    config = configure(root, "killed", 2)
    file = jobs.config_file(config, tmp_path)
    dice = random.Random(20261122)
    hits: list[str] = []
    attempts = 0
    process: subprocess.Popen[bytes] | None = None
    while len(hits) < KILLS:
        if process is None or process.poll() is not None:
            attempts += 1
            process = jobs.start("train", "--config", file, log=tmp_path / f"log-{attempts}")
        moment(dice, config, process)
        if process.poll() is None and (hit := kill(dice, process)) != "nothing":
            hits.append(hit)
            log.info("kill %d: %s, newest checkpoint %d", len(hits), hit, newest(config))
        else:
            assert process.poll() != 0, "the run ended before its last kill"
    if process is not None and process.poll() is None:
        assert process.wait(timeout=900) == 0, (tmp_path / f"log-{attempts}").read_text()[-3000:]
    else:
        result = jobs.run("train", "--config", file)
        assert result.returncode == 0, result.stderr[-3000:]

    assert {"worker", "driver"} <= set(hits)
    assert weights(config) == weights(whole)
    assert consumed(config) == list(range(4 * STEPS_PER_KILL * KILLS))
