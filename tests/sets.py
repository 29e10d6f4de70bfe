"""Small real shard sets and configurations on them, for tests of whole stages."""

from typing import Any

from siamdiff.config import Config
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import make_sample
from siamdiff.data.shards import write_shard
from siamdiff.data.shardset import ShardSet, finish_set


def write_phantoms(uri: str, count: int = 12, size: int = 32, shard_size: int = 5) -> ShardSet:
    """A complete set of phantoms: the last two samples are of the val split, the others of train."""
    samples = []
    for i in range(count):
        image, mask = render_phantom(0, i, size)
        split = "val" if i >= count - 2 else "train"
        samples.append(
            make_sample(
                image,
                mask,
                prompt="a polyp",
                split=split,
                group=str(i),
                source_size=(size, size),
                image_format="png",
            )
        )
    names = []
    for split in ("train", "val"):
        of_split = [sample for sample in samples if sample.meta.split == split]
        for number, first in enumerate(range(0, len(of_split), shard_size)):
            names.append(f"{split}-{number:06d}")
            write_shard(uri, names[-1], of_split[first : first + shard_size])
    finish_set(
        uri,
        names,
        kind="real",
        resolution=size,
        demo=True,
        license="Apache-2.0",
        permitted_use="any",
        made_from={"source": "phantom"},
    )
    return ShardSet.open(uri)


def small_config(root: str, size: int = 32, **sections: dict[str, Any]) -> Config:
    """A configuration that runs in seconds; `sections` override its fields."""
    fields: dict[str, dict[str, Any]] = {
        "data": {"resolution": size, "count": 12, "prompt": "a polyp"},
        "model": {"vae_steps": 2, "unet_steps": 2},
        "train": {
            "run": "r",
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "log_steps": 1,
            "checkpoint_steps": 3,
            "loader_workers": 0,
            "engine": "torch",
            "preview_samples": 0,
        },
        "generate": {"steps": 2, "guidance": 2.0},
    }
    for name, values in sections.items():
        fields[name] = fields.get(name, {}) | values
    return Config.model_validate({"root": root, **fields}).resolve()
