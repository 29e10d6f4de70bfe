"""Bases of every origin: what a name means, that it is fetched once, and what is said when it cannot be had."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from siamdiff import storage, transfer
from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.model.base import Base, load_base
from siamdiff.model.sources import identity, normalize, opened, resolved
from tests.model.test_single_file import Payload
from tests.model.tiny_sd import fill_hub_cache, ldm_state, networks, save_folder
from tests.s3 import S3Server

HUB_ID = "clinic/tiny-sd"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return networks()


@pytest.fixture(scope="module")
def saved(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As plain diffusers writes it: no safety checker, PNDM."""
    return save_folder(tmp_path_factory.mktemp("sd"), parts)


@pytest.fixture(autouse=True)
def node_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot in the hub's cache; the hub itself is out of reach (HF_HUB_OFFLINE)."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return fill_hub_cache(tmp_path / "hub", saved, HUB_ID, COMMIT)


def load(base: str, supplied: str | None = None) -> Base:
    with opened(base, supplied) as folder:
        return load_base(str(folder), base)


def refusal(base: str, supplied: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        load(base, supplied)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(base: Base, parts: dict[str, Any]) -> None:
    for part, network in parts.items():
        torch.testing.assert_close(getattr(base, part).state_dict(), network.state_dict(), rtol=0, atol=0)


def test_a_folder_written_by_plain_diffusers_is_a_base(saved, parts):
    base = load(str(saved))
    assert_same(base, parts)
    assert base.folder == saved, "read where it lies"
    assert base.scheduler.config["beta_schedule"] == "scaled_linear"


def test_names_mean_what_a_user_of_diffusers_expects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "local").mkdir(parents=True)
    assert normalize("tiny") == "tiny"
    assert normalize("org/name") == "org/name"
    assert normalize("stable-diffusion-v1-5/stable-diffusion-v1-5@refs/pr/1").endswith("@refs/pr/1")
    assert normalize("org/local") == str(tmp_path / "org" / "local"), "what is here goes first"
    assert normalize("org/model.safetensors") == str(tmp_path / "org" / "model.safetensors")
    assert normalize("./tiny") == str(tmp_path / "tiny")
    assert normalize("s3://bucket/sd15/") == "s3://bucket/sd15"


def test_the_configuration_keeps_hub_ids_and_makes_paths_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model: Any = {"base": "org/name@v1", "parts": "./parts"}
    resolved_config = Config(root=str(tmp_path), model=model).resolve()
    assert resolved_config.model.base == "org/name@v1"
    assert resolved_config.model.parts == str(tmp_path / "parts")
    assert resolved_config.resolve() == resolved_config


def test_a_hub_id_comes_from_the_hubs_cache_and_names_its_commit(hub, parts):
    assert resolved(HUB_ID) == f"{HUB_ID}@{COMMIT}" == resolved(f"{HUB_ID}@main")
    base = load(resolved(HUB_ID))
    assert_same(base, parts)
    assert base.folder == hub
    assert identity(resolved(HUB_ID)) == f"{HUB_ID}@{COMMIT}"


def test_the_environment_of_the_hub_is_the_hubs_own(hub, tmp_path):
    """HF_HOME alone, as a user sets it, in a process of its own."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "hub").symlink_to(hub.parents[2])
    program = f"from siamdiff.model.sources import resolved\nprint(resolved({HUB_ID!r}))"
    environment = {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == f"{HUB_ID}@{COMMIT}", done.stderr


@pytest.mark.parametrize("base", ["org/unknown", f"{HUB_ID}@v2", f"{HUB_ID}@{'f' * 40}"])
def test_an_offline_machine_is_told_what_to_put_where(hub, base):
    repository = base.partition("@")[0]
    with pytest.raises(UserError) as error:
        load(resolved(base))
    message = str(error.value)
    assert str(hub.parents[2]) in message and f"P.download('{repository}')" in message and "\n" not in message
    assert f"models--{repository.replace('/', '--')}" in message


def test_a_half_downloaded_snapshot_is_refused(hub):
    (hub / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "unet/ cannot be loaded" in refusal(HUB_ID) and "fetch it again" in refusal(HUB_ID)
    shutil.rmtree(hub / "unet")
    assert "lacks unet/" in refusal(HUB_ID)


def test_a_half_downloaded_folder_is_refused(saved, parts, tmp_path):
    folder = save_folder(tmp_path / "sharded", parts, max_shard_size="20KB")
    assert_same(load(str(folder)), parts)
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    assert "unet/ cannot be loaded" in refusal(str(folder))
    shards[1].rename(shards[1].with_suffix(".incomplete"))
    assert "unet/ cannot be loaded" in refusal(str(folder))


def test_nothing_where_the_base_should_be_is_told_with_what_can_be_given(tmp_path, s3: S3Server):
    for base in (
        str(tmp_path / "nowhere"),
        str(tmp_path / "x.ckpt"),
        f"{s3.new_root()}/sd",
        f"{s3.new_root()}/x.ckpt",
    ):
        with pytest.raises(UserError, match=f"no base at {base}; give a hub id"):
            identity(base)
        assert f"no base at {base}; give a hub id" in refusal(base)
    (tmp_path / "weights.bin").write_bytes(b"")
    assert "a file of another kind" in refusal(str(tmp_path / "weights.bin"))


@contextmanager
def as_a_stranger() -> Iterator[None]:
    """This process without the rights of root, whom no mode of a folder holds back."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_what_this_user_may_not_read_is_told_in_one_line(saved, tmp_path):
    home = tmp_path / "another's home"
    folder, file = shutil.copytree(saved, home / "sd"), home / "sd.ckpt"
    file.write_bytes(b"")
    home.chmod(0)
    with as_a_stranger():
        for base in (folder, file):
            with pytest.raises(UserError, match="no permission to read"):
                identity(str(base))
            assert "no permission to read" in refusal(str(base))
    home.chmod(0o700)


@pytest.mark.parametrize("name", ["sd.safetensors", "sd.ckpt"])
def test_a_single_file_is_a_base_unpacked_once(saved, parts, tmp_path, name, monkeypatch):
    file = tmp_path / name
    state = ldm_state(parts)
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    base = load(str(file), str(saved))
    assert_same(base, parts)
    monkeypatch.setattr("siamdiff.model.single_file.read_checkpoint", None)  # not called again
    again = load(str(file), str(saved))
    assert again.folder == base.folder
    damaged = base.folder / "unet" / "diffusion_pytorch_model.safetensors"
    damaged.unlink()
    monkeypatch.undo()
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    assert_same(load(str(file), str(saved)), parts)


def test_a_cache_without_room_is_told_in_one_line_and_nothing_half_written_stays(saved, parts, tmp_path):
    file = tmp_path / "sd.safetensors"
    save_file(ldm_state(parts), file)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # writing more fails as on a full disk
    try:
        message = refusal(str(file), str(saved))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "SIAMDIFF_CACHE" in message
    assert_same(load(str(file), str(saved)), parts)


def test_folders_and_files_in_a_store_are_fetched_once_per_node(
    saved, parts, s3: S3Server, tmp_path, node_cache
):
    root = s3.new_root()
    transfer.upload_folder(f"{root}/sd", saved)
    save_file(ldm_state(parts), tmp_path / "sd.safetensors")
    storage.upload_file(f"{root}/sd.safetensors", tmp_path / "sd.safetensors")
    for base, supplied in ((f"{root}/sd", None), (f"{root}/sd.safetensors", f"{root}/sd")):
        first = load(base, supplied)
        assert_same(first, parts)
        assert first.folder.is_relative_to(node_cache)
        before = first.folder.stat().st_ino
        assert load(base, supplied).folder.stat().st_ino == before
    before = identity(f"{root}/sd")
    assert identity(f"{root}/sd") == before
    storage.write_bytes(f"{root}/sd/unet/config.json", b"{} ")
    assert identity(f"{root}/sd") != before
    assert not list(node_cache.glob("bases/*.partial"))


def test_whole_parts_come_from_another_folder(saved, parts, tmp_path):
    lacking, extra = tmp_path / "lacking", tmp_path / "extra"
    shutil.copytree(saved, lacking, ignore=shutil.ignore_patterns("vae", "tokenizer"))
    (lacking / "siamdiff.json").write_text(json.dumps({"hint_channels": [4, 4, 8, 8, 16]}))
    for part in ("vae", "tokenizer", "unet"):
        shutil.copytree(saved / part, extra / part)
    (extra / "unet" / "config.json").write_text("{")  # not looked at: the base has one
    assert "lacks vae/, tokenizer/" in refusal(str(lacking))
    base = load(str(lacking), str(extra))
    assert_same(base, parts)
    assert base.hint_channels == (4, 4, 8, 8, 16)


def test_pickled_folders_are_read_by_way_of_safetensors(parts, tmp_path, node_cache):
    folder = save_folder(tmp_path / "bin", parts, safe_serialization=False)
    for part in ("vae", "unet"):
        assert list((folder / part).glob("*.bin")) and not list((folder / part).glob("*.safetensors"))
    with opened(str(folder)) as joined:
        assert_same(load_base(str(joined)), parts)
        assert list((joined / "vae").glob("*.safetensors")), "what goes on into models is no pickle"
        assert (joined / "vae").resolve().is_relative_to(node_cache)


def test_folders_in_half_precision_are_mapped_from_the_nodes_copy_in_fp32(parts, saved, tmp_path, node_cache):
    folder = shutil.copytree(saved, tmp_path / "half")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(file).items()}
    save_file(half, file, metadata={"format": "pt"})
    with opened(str(folder)) as joined:
        assert (joined / "vae").resolve().is_relative_to(node_cache)
        assert (joined / "unet").resolve() == folder / "unet"
        weights = load_file(joined / "vae" / file.name)
        torch.testing.assert_close(weights, {n: v.float() for n, v in half.items()}, rtol=0, atol=0)
        assert load_base(str(joined)).vae.dtype == torch.float32


def test_a_poisoned_base_is_refused_and_not_executed(saved, tmp_path):
    trace = tmp_path / "it ran"
    poison = {"state_dict": {"a": torch.zeros(1)}, "callbacks": Payload(trace)}
    torch.save(poison, tmp_path / "sd.ckpt")
    folder = shutil.copytree(saved, tmp_path / "folder")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(poison, folder / "vae" / "diffusion_pytorch_model.bin")
    for base in (tmp_path / "sd.ckpt", folder):
        assert "posix.mkdir" in refusal(str(base)) and "refused" in refusal(str(base))
    assert not trace.exists()


def test_identity_is_of_the_content_not_of_the_place(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    before = identity(str(copy))
    assert before == identity(str(saved))
    (copy / "README.md").write_text("extra")
    (copy / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"a variant that is not read")
    assert identity(str(copy)) == before
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert identity(str(copy)) != before


def test_a_text_that_is_a_link_out_of_its_base_does_not_go_on_into_models(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "base")
    (tmp_path / "private.txt").write_text("private")
    (folder / "tokenizer" / "notes.txt").symlink_to(tmp_path / "private.txt")
    assert "notes.txt is a link that leads out of its base" in refusal(str(folder))
    (folder / "tokenizer" / "notes.txt").unlink()
    (folder / "tokenizer" / "notes.txt").symlink_to("merges.txt")
    load(str(folder))
