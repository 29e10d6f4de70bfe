"""The whole method in one process, without Ray: ingest of phantoms, a base, training, samples. Argument: a folder."""

import sys

import torch

from siamdiff.config import Config
from siamdiff.data.pairing import scan
from siamdiff.data.raw import encode, examine, make_plan
from siamdiff.data.shards import write_shard
from siamdiff.data.shardset import ShardSet, finish_set, verify
from siamdiff.model.folder import load_model
from siamdiff.run import lease
from siamdiff.sampling.conditions import read_conditions
from siamdiff.sampling.plan import Plan
from siamdiff.sampling.shard import ShardSampler
from siamdiff.training import bases
from siamdiff.training.context import SingleProcess
from siamdiff.training.engine import TorchEngine
from siamdiff.training.loop import train
from tests.sets import small_config


def ingest(config: Config) -> ShardSet:
    data, source = config.data, scan(config.data)
    assert data.uri
    plan = make_plan(source.pairs, [examine(source.folder, pair, data) for pair in source.pairs], data)
    for name, samples in plan.shards.items():
        write_shard(data.uri, name, [encode(source.folder, sample, data) for sample in samples])
    finish_set(
        data.uri,
        plan.shards,
        kind="real",
        resolution=data.resolution,
        demo=True,
        license=data.license,
        permitted_use=data.permitted_use,
        made_from={},
    )
    return ShardSet.open(data.uri)


def generate(config: Config, masks: ShardSet) -> int:
    model = load_model(f"{config.run_uri()}/model")
    digest = model.info["model_digest"]
    plan = Plan.of(config.generate, masks=masks.digest, model=digest, resolution=config.data.resolution)
    shard = next(iter(plan.shards(plan.choose(masks.keys("train")))))
    return len(ShardSampler(model, plan).make(read_conditions(masks, plan, shard)).samples)


def main(root: str) -> None:
    config = small_config(root, train={"steps": 2, "checkpoint_steps": 2}, generate={"shard_size": 2})
    masks = ingest(config)
    assert verify(masks.uri) == []
    base = bases.prepare_base(config)
    with lease(config.run_uri()) as held:
        train(config, base, held, SingleProcess(torch.device("cpu")), TorchEngine.of)
    assert generate(config, masks) == 2


if __name__ == "__main__":
    main(sys.argv[1])
