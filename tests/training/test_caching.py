"""Training from a cache: the same bits as without it, no network at work, nothing that is made twice."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from siamdiff import storage, transfer
from siamdiff.data.latent_parts import MOMENTS, file_uri
from siamdiff.data.latents import LatentCache
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Batch, Stream, StreamDataset, load_batches
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.model.base import Base, decode_latents, load_base
from siamdiff.run import lease
from siamdiff.training import encoders, loop
from siamdiff.training.caching import make_cache, open_cache, origin_of
from siamdiff.training.context import SingleProcess
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.engine import TorchEngine
from tests.sets import small_config
from tests.tiny_model import HINT_CHANNELS, RESOLUTION, write_base, write_masks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with splits train, val and test, and a base."""
    folder = tmp_path_factory.mktemp("caching")
    write_masks(str(folder / "set"), 6, splits=("train", "val", "test"))
    write_base(folder / "base")
    return folder


@pytest.fixture
def base(folder: Path) -> Base:
    return load_base(str(folder / "base"))


@pytest.fixture
def shard_set(folder: Path) -> ShardSet:
    return ShardSet.open(str(folder / "set"))


@pytest.fixture(scope="module")
def uri(folder: Path) -> str:
    told: list[tuple[int, int]] = []
    base, shard_set = load_base(str(folder / "base")), ShardSet.open(str(folder / "set"))
    uri = make_cache(base, shard_set, CPU, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]  # not the test split, which training never reads
    return uri


@pytest.fixture
def cache(uri: str, base: Base, shard_set: ShardSet) -> LatentCache:
    cache = open_cache(base, shard_set)
    assert cache.uri == uri
    return cache


def batches(shard_set: ShardSet, split: str) -> Iterator[Batch]:
    side = RESOLUTION // 8
    stream = Stream(tuple(shard_set.keys(split)), seed=1, batch_size=4)
    dataset = StreamDataset(shard_set, stream, (4, side, side), 1000, 0.5)
    return load_batches(
        dataset,
        first_step=0,
        last_step=4,
        rank=0,
        world_size=1,
        micro_batch=4,
        loader_workers=0,
        pin_memory=False,
    )


def ruin(network: torch.nn.Module) -> None:
    """Whoever runs it gets what is not finite."""
    with torch.no_grad():
        for weights in network.parameters():
            weights.fill_(torch.nan)


def test_training_from_the_cache_gives_the_same_losses_and_weights(
    cache: LatentCache, folder: Path, tmp_path: Path
):
    def trained(run: str, *, cached: bool) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
        config = small_config(
            str(tmp_path),
            data={"uri": str(folder / "set")},
            model={"base": str(folder / "base"), "hint_channels": HINT_CHANNELS},
            train={"run": run, "steps": 4, "validation_steps": 2, "cache": cached},
        )
        with lease(config.run_uri()) as held:
            loop.train(config, str(folder / "base"), held, SingleProcess(CPU), TorchEngine.of)
        lines = storage.read_bytes(f"{config.run_uri()}/metrics.jsonl").splitlines()
        weights = load_file(f"{config.run_uri()}/model/controlnet/diffusion_pytorch_model.safetensors")
        return [learned(json.loads(line)) for line in lines], weights

    def learned(row: dict[str, float]) -> dict[str, float]:
        clocks = ("_per_second", "_seconds", "_time", "tflops")
        return {name: row[name] for name in row if not name.endswith(clocks)}

    losses, weights = trained("without", cached=False)
    assert "validation_loss" in losses[-1]
    from_cache, same = trained("from-cache", cached=True)
    assert from_cache == losses
    assert all(torch.equal(same[name], weights[name]) for name in weights)


@pytest.mark.parametrize("split", ["train", "val"])
def test_inputs_from_the_cache_are_the_same_bits_and_no_encoder_runs_for_them(
    cache: LatentCache, folder: Path, base: Base, shard_set: ShardSet, split: str
):
    without = FrozenEncoders(load_base(str(folder / "base")), CPU)
    ruin(base.vae.encoder)
    ruin(base.text_encoder)
    from_cache = FrozenEncoders(base, CPU, cache)
    for batch in batches(shard_set, split):
        one, other = without.inputs(batch), from_cache.inputs(batch)
        for name in ("z_0", "text", "image", "mask", "noise", "t"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_with_a_cache_the_networks_stay_where_they_are_until_the_decoder_is_wanted(
    cache: LatentCache, base: Base
):
    z_0 = torch.ones(1, 4, 4, 4)
    expected = decode_latents(base.vae, z_0)
    meta = torch.device("meta")  # a device to which nothing can be brought without being noticed
    base.text_encoder.to(meta)
    base.vae.encoder.to(meta)
    frozen = FrozenEncoders(base, CPU, cache)
    assert base.text_encoder.device == meta
    assert (frozen.decode(z_0) == expected).all()


def test_a_sample_of_the_test_split_is_not_in_a_cache(cache: LatentCache, shard_set: ShardSet):
    with pytest.raises(SiamdiffError, match="it is of the splits train, val"):
        cache.moments(shard_set.keys("test")[0])


def test_another_vae_or_text_encoder_or_tokenizer_has_another_cache(
    uri: str, folder: Path, shard_set: ShardSet, tmp_path: Path
):
    changed = {}
    for part in ("vae", "text_encoder"):
        base = load_base(str(folder / "base"))
        with torch.no_grad():
            next(getattr(base, part).parameters()).view(-1)[0] += 1e-6
        changed[part] = base
    base = load_base(str(folder / "base"))
    base.tokenizer.add_tokens(["polyp"])
    changed["tokenizer"] = base
    own = origin_of(load_base(str(folder / "base")), shard_set.digest)
    assert own.uri(shard_set.uri) == uri
    for part, base in changed.items():
        other = origin_of(base, shard_set.digest).model_dump()
        assert [name for name, value in own.model_dump().items() if value != other[name]] == [part]
        with pytest.raises(UserError, match="not a complete cache"):
            open_cache(base, shard_set)
        with pytest.raises(UserError, match=f"is a cache of another {'VAE' if part == 'vae' else part[:4]}"):
            LatentCache.open(uri, shard_set, origin_of(base, shard_set.digest))


def test_the_same_networks_saved_anew_and_used_have_the_same_cache(
    uri: str, base: Base, shard_set: ShardSet, tmp_path: Path
):
    for network in ("vae", "text_encoder"):
        getattr(base, network).save_pretrained(tmp_path / network, max_shard_size="20KB")
    for part in ("unet", "tokenizer", "scheduler"):
        getattr(base, part).save_pretrained(tmp_path / part)
    again = load_base(str(tmp_path))
    FrozenEncoders(again, CPU).text("a polyp")
    assert origin_of(again, shard_set.digest).uri(shard_set.uri) == uri


def test_only_what_is_missing_is_made_again_and_gives_the_same_bytes(folder: Path, uri: str, tmp_path: Path):
    transfer.upload_folder(str(tmp_path / "set"), folder / "set")
    shard_set = ShardSet.open(str(tmp_path / "set"))
    copy = Path(file_uri(f"{shard_set.uri}/cache/{storage.name_of(uri)}", MOMENTS, "val-000000"))
    made, kept = copy.read_bytes(), copy.with_name("train-000000.npy")
    before = kept.stat().st_mtime_ns
    copy.unlink()
    told: list[tuple[int, int]] = []
    base = load_base(str(folder / "base"))
    make_cache(base, shard_set, CPU, lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    assert copy.read_bytes() == made
    assert kept.stat().st_mtime_ns == before
    make_cache(base, shard_set, CPU, lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]


def test_a_vae_that_gives_what_is_not_finite_leaves_no_part(base: Base, folder: Path, tmp_path: Path):
    transfer.upload_folder(str(tmp_path / "set"), folder / "set")
    shard_set = ShardSet.open(str(tmp_path / "set"))
    ruin(base.vae)
    with pytest.raises(SiamdiffError, match=r"not finite for the sample [0-9a-f]{16}"):
        make_cache(base, shard_set, CPU, lambda done, total: None)
    own = origin_of(base, shard_set.digest).uri(shard_set.uri)
    assert storage.list_files(own) == {}


def test_states_of_many_prompts_do_not_pile_up(base: Base, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoders, "TEXT_STATES", 3)
    frozen = FrozenEncoders(base, CPU)
    first = frozen.text("a polyp")
    assert frozen.text("a polyp") is first
    for number in range(5):
        frozen.text(f"polyp {number}")
    assert frozen._states.cache_info().currsize == 3
    assert torch.equal(frozen.text("a polyp"), first)
