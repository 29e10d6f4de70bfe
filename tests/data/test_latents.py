"""A cache at rest: it comes out by key and by prompt, and whatever is wrong with it is refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.data.latent_parts import (
    MOMENTS,
    TEXTS,
    Origin,
    file_uri,
    finish_cache,
    finished_parts,
    is_complete,
    planned_moments,
    planned_texts,
    write_part,
)
from siamdiff.data.latents import LatentCache, verify_caches
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from tests.s3 import S3Server
from tests.sets import write_phantoms

SHARD, OTHER = "train-000000", "val-000000"
PROMPTS = ["a polyp", "an adenoma"]


@pytest.fixture
def shard_set(tmp_path: Path) -> ShardSet:
    return write_phantoms(str(tmp_path / "set"))


def origin_of(shard_set: ShardSet, **changes: str) -> Origin:
    return Origin(**{"data": shard_set.digest, "vae": "v", "text_encoder": "t", "tokenizer": "k"} | changes)


def moments_of(key: str, side: int = 4) -> np.ndarray:
    return np.random.default_rng(int(key, 16)).standard_normal((2, 4, side, side), dtype=np.float32)


def state_of(prompt: str) -> np.ndarray:
    return np.full((8, 16), len(prompt), dtype=np.float32)


def write_parts(shard_set: ShardSet, uri: str) -> None:
    for shard, keys in planned_moments(shard_set).items():
        write_part(uri, MOMENTS, shard, np.stack([moments_of(key) for key in keys]), PROMPTS, {})
    for name, prompts in planned_texts(PROMPTS).items():
        write_part(uri, TEXTS, name, np.stack([state_of(prompt) for prompt in prompts]), prompts, {})


def write_cache(shard_set: ShardSet) -> str:
    uri = origin_of(shard_set).uri(shard_set.uri)
    write_parts(shard_set, uri)
    finish_cache(uri, shard_set, origin_of(shard_set))
    return uri


def reopened(shard_set: ShardSet, uri: str) -> LatentCache:
    return LatentCache.open(uri, shard_set, origin_of(shard_set))


def flip_a_bit(uri: str) -> None:
    data = bytearray(storage.read_bytes(uri))
    data[-1] ^= 1
    storage.write_bytes(uri, bytes(data))


def change_manifest(uri: str, **changes: Any) -> None:
    content = json.loads(storage.read_bytes(f"{uri}/cache.json"))
    storage.write_json(f"{uri}/cache.json", content | changes)


def test_every_sample_that_training_reads_comes_out_by_key_and_every_prompt_by_its_words(shard_set: ShardSet):
    cache = reopened(shard_set, write_cache(shard_set))
    for key in shard_set.keys("train") + shard_set.keys("val"):
        assert np.array_equal(cache.moments(key), moments_of(key))
    for prompt in ("", *PROMPTS):
        assert np.array_equal(cache.text(prompt), state_of(prompt))


@pytest.mark.parametrize("key", ["0" * 16, "f" * 16, "7" * 16])
def test_a_key_that_the_cache_does_not_hold_is_an_error(shard_set: ShardSet, key: str):
    with pytest.raises(SiamdiffError, match=f"holds no sample {key}"):
        reopened(shard_set, write_cache(shard_set)).moments(key)


def test_a_prompt_that_the_cache_does_not_hold_is_an_error(shard_set: ShardSet):
    with pytest.raises(SiamdiffError, match="no states of the prompt 'a cyst'"):
        reopened(shard_set, write_cache(shard_set)).text("a cyst")


def test_many_prompts_are_divided_into_parts_with_the_empty_one_among_them():
    parts = planned_texts(f"prompt {i}" for i in range(130))
    assert [len(prompts) for prompts in parts.values()] == [64, 64, 3]
    assert parts["000000"][0] == ""


def test_an_incomplete_cache_is_refused(shard_set: ShardSet):
    uri = origin_of(shard_set).uri(shard_set.uri)
    write_parts(shard_set, uri)
    with pytest.raises(
        UserError, match=r"not a complete cache: it has no cache\.json; make it with jobs/cache\.py"
    ):
        reopened(shard_set, uri)


@pytest.mark.parametrize(
    ("field", "name"),
    [("data", "set"), ("vae", "VAE"), ("text_encoder", "text encoder"), ("tokenizer", "tokenizer")],
)
def test_a_cache_of_something_else_is_refused_by_name(shard_set: ShardSet, field: str, name: str):
    uri = write_cache(shard_set)
    with pytest.raises(UserError, match=f"is a cache of another {name} "):
        LatentCache.open(uri, shard_set, origin_of(shard_set, **{field: "other"}))


def test_a_cache_of_another_schema_is_refused(shard_set: ShardSet):
    uri = write_cache(shard_set)
    change_manifest(uri, schema_version=2)
    with pytest.raises(UserError, match="schema version 2, this siamdiff reads 1"):
        reopened(shard_set, uri)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moments": []}, f"has a hole: no moments of shard {SHARD}, 5 samples"),
        ({"texts": []}, "has a hole: no states of the empty prompt"),
        ({"count": "many"}, r"cache\.json is damaged: count"),
    ],
)
def test_a_hole_is_refused(shard_set: ShardSet, changes: dict[str, Any], message: str):
    uri = write_cache(shard_set)
    change_manifest(uri, **changes)
    with pytest.raises(SiamdiffError, match=message):
        reopened(shard_set, uri)


def test_moments_of_too_few_samples_or_of_another_size_do_not_complete_a_cache(shard_set: ShardSet):
    uri = origin_of(shard_set).uri(shard_set.uri)
    write_parts(shard_set, uri)
    keys = planned_moments(shard_set)[OTHER]
    for rows, message in (
        (np.stack([moments_of(key) for key in keys[:-1]]), "moments of 1 samples of shard val-000000"),
        (np.stack([moments_of(key, side=8) for key in keys]), r"have the shape \(2, 4, 8, 8\), not"),
    ):
        storage.delete(file_uri(uri, MOMENTS, OTHER))
        write_part(uri, MOMENTS, OTHER, rows, PROMPTS, {})
        with pytest.raises(SiamdiffError, match=message):
            finish_cache(uri, shard_set, origin_of(shard_set))
        assert not storage.exists(f"{uri}/cache.json")


@pytest.mark.parametrize(("kind", "name"), [(MOMENTS, SHARD), (TEXTS, "000000")])
def test_a_flipped_bit_is_found_before_anything_is_used(shard_set: ShardSet, kind: str, name: str):
    uri = write_cache(shard_set)
    flip_a_bit(file_uri(uri, kind, name))
    with pytest.raises(
        SiamdiffError, match=rf"{kind}/{name}\.npy is damaged: its hash is not the recorded one"
    ):
        reopened(shard_set, uri)


def test_a_missing_part_is_refused_and_makes_the_cache_incomplete_for_its_maker(shard_set: ShardSet):
    uri = write_cache(shard_set)
    assert is_complete(uri, shard_set, origin_of(shard_set))
    storage.delete(file_uri(uri, MOMENTS, OTHER))
    with pytest.raises(SiamdiffError, match=r"val-000000\.npy is missing; delete what is left of it"):
        reopened(shard_set, uri)
    assert not is_complete(uri, shard_set, origin_of(shard_set))
    assert finished_parts(uri, MOMENTS) == planned_moments(shard_set).keys() - {OTHER}


def test_a_part_that_was_cut_short_does_not_complete_a_cache(shard_set: ShardSet):
    uri = write_cache(shard_set)
    file = Path(file_uri(uri, MOMENTS, SHARD))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        SiamdiffError, match=r"train-000000\.npy has 100 bytes, \d+ were written.*; delete it and run"
    ):
        finish_cache(uri, shard_set, origin_of(shard_set))


def test_of_two_attempts_whose_last_bits_differ_the_first_is_kept_and_marked(
    shard_set: ShardSet, tmp_path: Path
):
    uri, rows = str(tmp_path / "cache"), np.stack([moments_of(key) for key in shard_set.keys("val")])
    first = write_part(uri, MOMENTS, OTHER, rows, PROMPTS, {"device": "one"})
    second = write_part(uri, MOMENTS, OTHER, np.nextafter(rows, np.float32(9)), PROMPTS, {"device": "two"})
    assert second.sha256 == first.sha256
    assert (first.made_by, second.made_by) == ({"device": "one"}, {})


@pytest.mark.parametrize("there", ["another part", "half a file"])
def test_another_or_a_damaged_file_under_a_parts_name_is_not_taken_for_it(
    shard_set: ShardSet, tmp_path: Path, there: str
):
    uri, rows = str(tmp_path / "cache"), np.stack([moments_of(key) for key in shard_set.keys("val")])
    write_part(uri, MOMENTS, OTHER, rows + 1, PROMPTS, {})
    file, message = file_uri(uri, MOMENTS, OTHER), "holds other values than these networks give; delete it"
    if there == "half a file":
        storage.write_bytes(file, storage.read_bytes(file)[:200])
        message = "is damaged"
    with pytest.raises(SiamdiffError, match=message):
        write_part(uri, MOMENTS, OTHER, rows, PROMPTS, {})


def test_a_cache_in_an_object_store_is_fetched_once_and_a_damaged_copy_again(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path))
    shard_set = write_phantoms(f"{s3.new_root()}/set")
    uri = write_cache(shard_set)
    part = reopened(shard_set, uri).manifest.moments[0]
    copy = tmp_path / "latents" / f"{part.sha256}.npy"
    fetched = copy.stat().st_mtime_ns
    cache = reopened(shard_set, uri)
    assert copy.stat().st_mtime_ns == fetched
    flip_a_bit(str(copy))
    assert reopened(shard_set, uri).manifest == cache.manifest
    key = planned_moments(shard_set)[part.name][0]
    assert np.array_equal(reopened(shard_set, uri).moments(key), moments_of(key))


def test_verify_reads_the_caches_of_a_set_too(shard_set: ShardSet, capsys: pytest.CaptureFixture[str]):
    uri = write_cache(shard_set)
    storage.write_bytes(
        f"{shard_set.uri}/cache/begun/moments/{SHARD}.npy", b""
    )  # not complete: nobody's business
    assert main(["verify", shard_set.uri]) == 0
    assert "whole: 12 samples" in capsys.readouterr().out
    flip_a_bit(file_uri(uri, MOMENTS, SHARD))
    storage.delete(file_uri(uri, TEXTS, "000000"))
    assert verify_caches(shard_set.uri) == [
        f"{uri}/moments/{SHARD}.npy has another sha256 than cache.json says: its bytes were changed",
        f"{uri}/texts/000000.npy is missing",
    ]
    assert main(["verify", shard_set.uri]) == 1
    assert "2 problems" in capsys.readouterr().err
