"""Synthetic sets, ours or another method's, are never trained on as if they were real."""

import pytest

from infra.train import train
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import Foreign, Synthetic, make_sample
from siamdiff.data.shards import write_shard
from siamdiff.data.shardset import finish_set
from siamdiff.errors import UserError
from tests.sets import small_config

OURS = Synthetic(parent="0" * 16, fold=0, transform={}, seed=0, model_digest="m", sampler={})


@pytest.mark.parametrize("origin", [OURS, Foreign(method="other", has_mask=True)], ids=["ours", "another's"])
def test_training_refuses_a_synthetic_set(tmp_path, origin):
    config = small_config(str(tmp_path))
    about = {"prompt": "", "split": "train", "group": None, "source_size": (32, 32), "image_format": "png"}
    pairs = [render_phantom(0, index, 32) for index in range(4)]
    write_shard(
        config.data.uri, "fold0-000000", [make_sample(*pair, synthetic=origin, **about) for pair in pairs]
    )
    finish_set(
        config.data.uri,
        ["fold0-000000"],
        kind="synthetic",
        resolution=32,
        demo=False,
        license="",
        permitted_use="",
        made_from={},
    )
    with pytest.raises(UserError, match="is a synthetic set; training takes a real one"):
        train(config, False)
