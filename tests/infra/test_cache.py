"""The cache job on a real cluster and a real store: the bytes of one process, whatever happens on the way."""

import signal
from pathlib import Path

import pytest
import torch

from infra import cluster
from infra.cache import CacheActor, ensure_cache
from infra.train import train
from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.latent_parts import MOMENTS, file_uri, finished_parts, planned_moments, read_cache_manifest
from siamdiff.data.latents import verify_caches
from siamdiff.data.shards import tar_uri
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.model.base import load_base
from siamdiff.training import bases
from siamdiff.training.caching import make_cache, origin_of
from tests import jobs
from tests.sets import small_config, write_phantoms
from tests.tiny_model import HINT_CHANNELS, write_base

SAMPLES, SHARDS = 40, 20  # of two samples each


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return folder


@pytest.fixture(scope="module")
def in_one_process(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the parts as one process makes them."""
    shard_set = write_phantoms(str(tmp_path_factory.mktemp("data")), SAMPLES, shard_size=2)
    uri = make_cache(load_base(str(base)), shard_set, torch.device("cpu"), lambda done, total: None)
    return hashes(uri)


def hashes(uri: str) -> dict[str, str]:
    manifest = read_cache_manifest(uri)
    return {part.name: part.sha256 for part in [*manifest.moments, *manifest.texts]}


def configure(root: str, base: Path, workers: int = 2, **train: object) -> Config:
    settings = {"engine": "deepspeed", "workers": workers, **train}
    return small_config(root, model={"base": str(base)}, train=settings)


def cache_of(config: Config) -> str:
    shard_set = ShardSet.open(str(config.data.uri))
    return origin_of(load_base(config.model.base), shard_set.digest).uri(shard_set.uri)


@pytest.mark.soak
@pytest.mark.cluster
def test_the_job_makes_what_one_process_makes_and_is_done_once(
    s3, base, in_one_process, tmp_path, caplog: pytest.LogCaptureFixture
):
    root = s3.new_root()
    write_phantoms(f"{root}/data", SAMPLES, shard_size=2)
    config = configure(root, base)
    result = jobs.run("cache", "--config", jobs.config_file(config, tmp_path))
    assert result.returncode == 0, result.stderr[-3000:]
    uri = cache_of(config)
    assert hashes(uri) == in_one_process
    assert verify_caches(str(config.data.uri)) == []
    assert storage.read_json(f"{root}/cache/status.json")["phase"] == "finished"

    with caplog.at_level("INFO"):
        alone = configure(root, base, 1, engine="torch")
        assert ensure_cache(alone, bases.base_uri(alone, ""), lambda done, total: None) == uri
    assert "is complete" in caplog.text


def test_training_makes_the_cache_it_is_told_to_read_and_stops_at_a_damaged_one(base, tmp_path: Path):
    def configured(run: str) -> Config:
        settings = {"run": run, "engine": "torch", "steps": 1, "cache": True, "preview_samples": 0}
        model = {"base": str(base), "hint_channels": HINT_CHANNELS}
        return small_config(str(tmp_path), model=model, train=settings)

    write_phantoms(f"{tmp_path}/data")
    config = configured("first")
    train(config, False)
    uri = cache_of(config)
    assert verify_caches(str(config.data.uri)) == []
    part = Path(file_uri(uri, MOMENTS, "train-000000"))
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    config = configured("second")
    with pytest.raises(
        SiamdiffError, match=r"train-000000\.npy is damaged: its hash is not the recorded one"
    ):
        train(config, False)
    status = storage.read_json(f"{config.run_uri()}/status.json")
    assert (status["phase"], status["exit_code"]) == ("failed", 1)


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_killed_actor_a_killed_driver_and_a_rerun_lose_no_finished_part(
    s3, base, in_one_process, tmp_path: Path
):
    root = s3.new_root()
    write_phantoms(f"{root}/data", SAMPLES, shard_size=2)
    config = configure(root, base, 1)
    uri, file = cache_of(config), jobs.config_file(config, tmp_path)

    process = jobs.start("cache", "--config", file, log=tmp_path / "log")
    jobs.wait_for(lambda: jobs.descendants(process, "CacheActor"), process)
    jobs.descendants(process, "CacheActor")[0].send_signal(signal.SIGKILL)
    jobs.wait_for(lambda: finished_parts(uri, MOMENTS), process)
    jobs.kill_tree(process)
    there = finished_parts(uri, MOMENTS)
    assert not storage.exists(f"{uri}/cache.json")

    fs, path = storage.filesystem(uri)
    before = {name: fs.info(f"{path}/{MOMENTS}/{name}.json")["LastModified"] for name in there}
    result = jobs.run("cache", "--config", file)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {name: fs.info(f"{path}/{MOMENTS}/{name}.json")["LastModified"] for name in there} == before
    assert hashes(uri) == in_one_process


@pytest.mark.soak
@pytest.mark.cluster
def test_a_damaged_shard_costs_no_other_part_and_too_many_actors_are_refused(base, tmp_path: Path):
    shard_set = write_phantoms(f"{tmp_path}/data", SAMPLES, shard_size=2)
    config = configure(str(tmp_path), base)
    cluster.connect()
    with pytest.raises(UserError, match="20 actors for the cache need 10 CPU"):
        ensure_cache(
            small_config(
                str(tmp_path),
                model={"base": str(base)},
                train={"engine": "deepspeed", "workers": 400, "batch_size": 400},
            ),
            str(base),
            lambda done, total: None,
        )
    tar = Path(tar_uri(shard_set.uri, "train-000003"))
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-1])
    with pytest.raises(
        SiamdiffError, match=r"1 of 20 parts of .* could not be made \(train-000003\): .* is damaged"
    ):
        ensure_cache(config, str(base), lambda done, total: None)
    uri = cache_of(config)
    assert finished_parts(uri, MOMENTS) == planned_moments(shard_set).keys() - {"train-000003"}
    tar.write_bytes(whole)
    ensure_cache(config, str(base), lambda done, total: None)
    assert verify_caches(shard_set.uri) == []


@pytest.mark.soak
@pytest.mark.cluster
def test_a_part_that_kills_its_actor_every_time_is_given_up(base, tmp_path: Path):
    import ray

    shard_set = write_phantoms(f"{tmp_path}/data", 4)
    config = configure(str(tmp_path), base)
    cluster.connect()
    attempts = cluster.Attempts.start()
    assert ray.get([attempts.begin.remote("train-000000") for _ in range(cluster.MAX_ATTEMPTS)])[-1] == 4
    actor = ray.remote(num_cpus=0.5)(CacheActor).remote(
        config.model_dump(), str(base), shard_set.digest, cache_of(config), MOMENTS, attempts
    )
    result = ray.get(actor.__call__.remote({"name": "train-000000", "prompts": ""}))
    assert "its encoder died 4 times" in result["error"]
