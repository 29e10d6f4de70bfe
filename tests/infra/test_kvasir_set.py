"""Every real mask three times, with samplers dying on the way: each sample once, as any reader of tars sees it."""

import logging
import random
import shutil
import time
from pathlib import Path

import pytest
import webdataset as wds

from siamdiff.data.shards import finished_shards
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.sampling.audit import audit_of
from tests import jobs
from tests.sets import small_config

MASKS, FOLDS, SHARD_SIZE, SIDE = 900, 3, 60, 64
SHARDS = MASKS * FOLDS // SHARD_SIZE
KILLS = 2

log = logging.getLogger(__name__)


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(3600)
def test_three_folds_of_the_kvasir_masks_hold_each_sample_once_though_samplers_die(
    shared: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for kind in ("images", "masks"):
        (source / kind).mkdir(parents=True)
        for file in (shared / "data/kvasir_seg" / kind).iterdir():
            # by their own names a hundred would be of the val split
            shutil.copyfile(file, source / kind / f"kvasir-{file.name.replace('_', '')}")
    root, output = f"{tmp_path}/root", f"{tmp_path}/set"
    config = small_config(
        root,
        size=SIDE,
        data={"source": str(source), "split": {"train": 1.0}},
        model={"vae_steps": 60, "unet_steps": 30},
        train={"batch_size": 8},
        generate={
            "folds": FOLDS,
            "fold_masks": ["real", "random"],
            "steps": 4,
            "batch_size": 12,
            "shard_size": SHARD_SIZE,
            "actors": 2,
            "output": output,
        },
    )
    file = jobs.config_file(config, tmp_path)
    for job in ("ingest", "train"):
        result = jobs.run(job, "--config", file)
        assert result.returncode == 0, result.stderr[-3000:]
    assert len(ShardSet.open(f"{root}/data").keys("train")) == MASKS

    began = time.monotonic()
    process = jobs.start("generate", "--config", file, log=tmp_path / "log")
    dice = random.Random(20261123)
    for number in sorted(dice.sample(range(1, SHARDS - 5), KILLS)):
        jobs.wait_for(lambda due=number: len(finished_shards(output)) >= due, process)
        time.sleep(dice.uniform(0, 1))
        dice.choice(jobs.descendants(process, "SamplerActor")).kill()
        log.info("a sampler was killed after %d shards", len(finished_shards(output)))
    assert process.wait(timeout=1800) == 0, (tmp_path / "log").read_text()[-3000:]
    log.info("%d samples in %.0f s", MASKS * FOLDS, time.monotonic() - began)

    assert verify(output, audit_of) == []
    shards = sorted(str(path) for path in Path(output, "shards").glob("*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=False).decode("pil")
    keys, pairs = [], set()
    for sample in dataset:
        keys.append(sample["__key__"])
        pairs.add((sample["json"]["synthetic"]["parent"], sample["json"]["synthetic"]["fold"]))
        assert sample["png"].size == sample["mask.png"].size == (SIDE, SIDE)
    assert len(shards) == SHARDS
    assert len(keys) == len(set(keys)) == len(pairs) == MASKS * FOLDS
