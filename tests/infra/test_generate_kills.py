"""The driver of bulk generation is killed, and the model is replaced under it: no bit of what was planned changes."""

import logging
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from siamdiff import storage, transfer
from siamdiff.config import Config
from siamdiff.data.shards import finished_shards
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.sampling.audit import audit_of
from tests import jobs
from tests.generation import (
    MASKS,
    configure,
    ends_well,
    hashes,
    is_as,
    last_line,
    make_root,
    output_of,
    started,
)
from tests.tiny_model import write_model

pytestmark = [pytest.mark.soak, pytest.mark.cluster, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("SIAMDIFF_KILLS", "20"))
SHARDS_PER_KILL = 12  # more than are made between two kills, so that the job is still at work at the last one

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_root(tmp_path_factory.mktemp("kills"))


def moment(dice: random.Random, config: Config, process: subprocess.Popen[bytes]) -> None:
    """Waits for the next kill: mostly until a shard came, and a little longer; at times for no reason at all."""
    if dice.random() < 0.25:
        deadline = time.monotonic() + dice.uniform(0, 20)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        return
    before = finished_shards(output_of(config))
    jobs.wait_for(lambda: finished_shards(output_of(config)) > before, process)
    time.sleep(dice.uniform(0, 1))


@pytest.mark.timeout(3600)
def test_a_driver_killed_at_random_moments_with_all_its_cluster_changes_no_bit(
    root: str, tmp_path: Path
) -> None:
    settings = {"folds": -(-KILLS * SHARDS_PER_KILL // MASKS), "shard_size": 1, "batch_size": 1}
    undisturbed = configure(root, f"{tmp_path}/undisturbed", **settings)
    ends_well(undisturbed, tmp_path)
    config = configure(root, f"{tmp_path}/killed", **settings)
    dice = random.Random(20261123)
    for number in range(KILLS):
        file = jobs.config_file(config, tmp_path)
        process = jobs.start("generate", "--config", file, log=tmp_path / f"log-{number}")
        moment(dice, config, process)
        assert process.poll() is None, (tmp_path / f"log-{number}").read_text()[-3000:]
        jobs.kill_tree(process)
        log.info("kill %d: %d shards", number + 1, len(finished_shards(output_of(config))))
    assert not storage.exists(f"{output_of(config)}/dataset.json")
    ends_well(config, tmp_path)
    is_as(output_of(undisturbed), output_of(config))


@pytest.fixture
def own(root: str, tmp_path: Path) -> str:
    """A root whose model may be replaced."""
    uri = f"{tmp_path}/root"
    transfer.upload_folder(uri, Path(root))
    return uri


def replace_model(root: str, folder: Path, seed: int) -> None:
    """Puts the model of another seed (0: the first one again) in its place."""
    storage.delete_folder(f"{root}/runs/a/model")
    write_model(f"{root}/runs/a/model", folder / f"base-{seed}", ShardSet.open(f"{root}/data"), seed=seed)


def test_a_model_replaced_between_two_runs_gives_a_set_beside_the_old_one(own: str, tmp_path: Path) -> None:
    config = configure(own, None, folds=1, steps=2, shard_size=5)
    latest = f"{own}/synthetic/latest.json"
    ends_well(config, tmp_path)
    old = storage.read_json(latest)["uri"]
    before = hashes(old)
    replace_model(own, tmp_path, seed=1)
    ends_well(config, tmp_path)
    new = storage.read_json(latest)["uri"]
    assert new != old and not set(hashes(new).values()) & set(before.values())
    for uri in (old, new):
        assert verify(uri, audit_of) == []
    assert hashes(old) == before

    replace_model(own, tmp_path, seed=0)
    ends_well(config, tmp_path)
    assert storage.read_json(latest)["uri"] == old
    assert hashes(old) == before and ShardSet.open(old).manifest.revision == 1
    assert "nothing to do" in ends_well(config, tmp_path)


def test_a_model_replaced_during_a_run_ends_it_with_one_line(own: str, tmp_path: Path) -> None:
    config = configure(own, f"{tmp_path}/set")
    process = started(config, tmp_path)
    replace_model(own, tmp_path, seed=1)
    for sampler in jobs.descendants(process, "SamplerActor"):
        sampler.send_signal(signal.SIGKILL)  # the next one finds the other model
    assert process.wait(timeout=300) == 1
    assert "the model was replaced while the job ran" in last_line(tmp_path)
    result = jobs.run("generate", "--config", jobs.config_file(config, tmp_path))
    assert result.returncode == 2 and "holds another plan: model was" in jobs.last_line(result)
    replace_model(own, tmp_path, seed=0)
    ends_well(config, tmp_path)
    undisturbed = configure(own, f"{tmp_path}/undisturbed")
    ends_well(undisturbed, tmp_path)
    is_as(output_of(undisturbed), output_of(config))
