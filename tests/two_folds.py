"""A set of two folds of ten, which one actor makes in a second or two, and what it is made from."""

from pathlib import Path

from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.model.about import read_info
from siamdiff.sampling.plan import Plan
from tests.tiny_model import write_masks, write_model


def configure(root: str, gpus: int = 0, **settings: object) -> Config:
    chosen = {"folds": 2, "fold_masks": ["real", "random"], "steps": 12, "batch_size": 3, "shard_size": 4}
    fields = {"root": root, "data": {"source": "polyps"}, "train": {"run": "a"}, "cluster": {"gpus": gpus}}
    return Config(**fields, generate={**chosen, **settings}).resolve()


def write_inputs(folder: Path) -> None:
    """A root with a mask set of 10 and a model."""
    config = configure(str(folder / "root"))
    masks = write_masks(config.generate.masks, 10, splits=("train", "val"))
    write_model(config.generate.model, folder / "base", masks)


def plan_of(root: str, **settings: object) -> Plan:
    """The plan of that set with these settings."""
    config = configure(root, **settings).generate
    masks, info = ShardSet.open(config.masks), read_info(config.model)
    return Plan.of(
        config, masks=masks.digest, model=info["model_digest"], resolution=32, training=masks.digest
    )
