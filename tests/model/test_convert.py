"""python -m siamdiff convert: the authors' file to our folder and back, to the last bit, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.model.about import read_info
from siamdiff.model.base import load_base
from siamdiff.model.folder import load_model
from siamdiff.model.weights import read_weights
from tests.model.test_single_file import Payload
from tests.model.tiny_sd import DHI, control, ldm_state, networks, save_folder
from tests.s3 import S3Server


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    found = networks()
    return found | {"controlnet": control(found["unet"])}


@pytest.fixture(scope="module")
def base(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(
        tmp_path_factory.mktemp("base"), {name: parts[name] for name in ("unet", "vae", "text_encoder")}
    )


@pytest.fixture(scope="module")
def merged(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the authors publish: every network in one pickle of tensors."""
    file = tmp_path_factory.mktemp("authors") / "merged_pytorch_model.pth"
    torch.save(ldm_state(parts), file)
    return file


@pytest.fixture(scope="module")
def model(merged: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "model"
    assert main(["convert", str(merged), str(folder), "--base", str(base), "--license", "CC-BY-4.0"]) == 0
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["convert", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_an_imported_model_is_one_that_loads_and_says_what_is_not_known(model, parts, merged):
    loaded = load_model(str(model))
    found = {"unet": loaded.unet, "controlnet": loaded.control, "vae": loaded.vae}
    for part, network in (found | {"text_encoder": loaded.base.text_encoder}).items():
        torch.testing.assert_close(network.state_dict(), parts[part].state_dict(), rtol=0, atol=0)
    info = read_info(str(model))
    assert (info["resolution"], info["license"], info["permitted_use"]) == (384, "CC-BY-4.0", "unknown")
    assert info["data_digest"] is None and info["train"] is None
    assert info["imported_from"] == {
        "file": merged.name,
        "sha256": storage.file_sha256(merged),
    }


@pytest.mark.parametrize("name", ["back.safetensors", "back.pth"])
def test_the_way_there_and_back_keeps_every_bit(model, merged, base, tmp_path, name):
    exported, again = tmp_path / name, tmp_path / "again"
    assert main(["convert", str(model), str(exported)]) == 0
    before, after = read_weights(merged), read_weights(exported)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert exported.stat().st_size < 1.2 * merged.stat().st_size
    assert main(["convert", str(exported), str(again), "--base", str(base)]) == 0
    assert read_info(str(again))["model_digest"] == read_info(str(model))["model_digest"]


def test_an_export_has_every_name_of_the_authors_model(model, parts, tmp_path):
    """Their training script loads strictly, with transformers 4.19.2, whose CLIP keeps its positions."""
    main(["convert", str(model), str(tmp_path / "it.safetensors")])
    names = load_file(tmp_path / "it.safetensors").keys()
    weights = sum(len(network.state_dict()) for network in parts.values())
    assert len(names) == weights + 13 + 1
    assert {"betas", "posterior_mean_coef2", "logvar"} <= names
    assert "cond_stage_model.transformer.text_model.embeddings.position_ids" in names


def test_a_file_without_a_control_network_becomes_a_base(parts, base, tmp_path, capsys):
    state = {n: v for n, v in ldm_state(parts).items() if not n.startswith("control_model.")}
    save_file(state, tmp_path / "sd.safetensors")
    command = ["convert", str(tmp_path / "sd.safetensors"), str(tmp_path / "sd"), "--base", str(base)]
    assert main([*command, "--license", "creativeml-openrail-m"]) == 0
    assert "base" in capsys.readouterr().out
    assert storage.read_json(str(tmp_path / "sd" / "siamdiff.json")) == {"license": "creativeml-openrail-m"}
    made = load_base(str(tmp_path / "sd"))
    torch.testing.assert_close(made.unet.state_dict(), parts["unet"].state_dict(), rtol=0, atol=0)


def test_a_control_network_alone_takes_the_rest_from_the_base(parts, base, tmp_path):
    state = {n: v for n, v in ldm_state(parts).items() if n.startswith("control_model.")}
    torch.save(state, tmp_path / "control.pth")
    assert main(["convert", str(tmp_path / "control.pth"), str(tmp_path / "it"), "--base", str(base)]) == 0
    loaded = load_model(str(tmp_path / "it"))
    torch.testing.assert_close(loaded.unet.state_dict(), parts["unet"].state_dict(), rtol=0, atol=0)
    assert tuple(loaded.control.config["hint_channels"]) == DHI


def test_the_same_command_again_is_no_mistake_and_finishes_what_was_interrupted(
    model, merged, base, tmp_path, capsys
):
    folder = shutil.copytree(model, tmp_path / "model")
    command = ["convert", str(merged), str(folder), "--base", str(base), "--license", "CC-BY-4.0"]
    assert main(command) == 0 and "already there" in capsys.readouterr().out
    (folder / "siamdiff.json").unlink()  # killed before the end: what counts as a model is written last
    (folder / "controlnet" / "config.json").unlink()
    assert main(command) == 0 and "2 files written" in capsys.readouterr().out
    load_model(str(folder))
    exported = ["convert", str(model), str(tmp_path / "it.pth")]
    assert main(exported) == 0 and main(exported) == 0
    assert "already there" in capsys.readouterr().out


def test_a_target_with_anything_else_is_left_alone(model, merged, base, tmp_path, capsys):
    folder, file = tmp_path / "folder", tmp_path / "file.pth"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    file.write_bytes(b"mine")
    assert "holds something else (model_index.json)" in refusal(capsys, merged, folder, "--base", base)
    assert "holds something else" in refusal(capsys, model, file)
    assert file.read_bytes() == b"mine" and len(list(folder.iterdir())) == 1


def test_stores_hold_either_side(model, merged, base, s3: S3Server):
    root = s3.new_root()
    assert main(["convert", str(model), f"{root}/it.pth"]) == 0
    assert main(["convert", f"{root}/it.pth", f"{root}/model", "--base", str(base)]) == 0
    assert main(["convert", f"{root}/it.pth", f"{root}/model", "--base", str(base)]) == 0
    assert read_info(f"{root}/model")["model_digest"] == read_info(str(model))["model_digest"]


def test_what_cannot_be_converted_is_refused_in_one_line(model, merged, base, tmp_path, capsys):
    assert "does not exist" in refusal(capsys, tmp_path / "none.pth", tmp_path / "x")
    assert "Is a directory" in refusal(capsys, shutil.copytree(base, tmp_path / "it.pth"), tmp_path / "x")
    shutil.rmtree(tmp_path / "it.pth")
    assert "is a single file" in refusal(capsys, merged, tmp_path / "x", "--base", merged)
    assert "no model at" in refusal(capsys, base, tmp_path / "x.pth")
    assert "end it in" in refusal(capsys, model, tmp_path / "folder")
    assert "of another shape" in refusal(
        capsys, merged, tmp_path / "x"
    )  # it is not of Stable Diffusion's size
    assert "multiple of 8" in refusal(capsys, merged, tmp_path / "x", "--base", base, "--resolution", "100")
    assert not list(tmp_path.iterdir())


def test_a_poisoned_file_is_refused_and_not_executed(tmp_path, capsys):
    trace = tmp_path / "it ran"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Payload(trace)}, tmp_path / "it.ckpt")
    message = refusal(capsys, tmp_path / "it.ckpt", tmp_path / "out")
    assert "posix.mkdir" in message and "docs/bases.md" in message
    assert not trace.exists() and not (tmp_path / "out").exists()


def test_an_export_of_a_model_that_was_tampered_with_is_refused(model, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"note": 1}))
    assert main(["convert", str(folder), str(tmp_path / "it.pth")]) == 1
    assert "is damaged" in capsys.readouterr().err
