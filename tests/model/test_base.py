import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from siamdiff.errors import UserError
from siamdiff.model.about import folder_digest
from siamdiff.model.base import (
    decode_latents,
    encode_moments,
    encode_prompts,
    load_base,
    sample_latent,
)
from siamdiff.model.tiny import make_tiny_base

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    make_tiny_base(images, 32, 0, folder, vae_steps=1, unet_steps=1, prompt="a polyp")
    return folder


@pytest.fixture
def folder(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "base")


@pytest.fixture(scope="module")
def base(tiny):
    return load_base(str(tiny))


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder):
    with pytest.raises(UserError) as error:
        load_base(str(folder))
    message = str(error.value)
    assert "\n" not in message and str(folder) in message
    return message


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
@pytest.mark.parametrize("content", ["{", '{"block_out_channels": 3, "hidden_size": "x"}'])
def test_a_damaged_configuration_is_told(folder, part, content):
    (folder / part / "config.json").write_text(content)
    assert f"{part}/ cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"hint_channels": 4}'])
def test_a_damaged_note_of_widths_is_told(folder, content):
    (folder / "siamdiff.json").write_text(content)
    assert "siamdiff.json is not what Siamdiff wrote" in refusal(folder)


def test_a_base_is_loaded_whole_in_fp32_and_in_eval_mode(base, tiny):
    for network in (base.vae, base.unet, base.text_encoder):
        assert not network.training
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert base.folder == tiny
    assert base.hint_channels == (4, 8, 16, 32, 64)
    assert base.scheduler.config["prediction_type"] == "epsilon"


def test_what_is_saved_of_a_base_does_not_name_where_it_lay(base, tmp_path):
    for network in (base.vae, base.unet, base.text_encoder):
        network.save_pretrained(tmp_path)
        assert str(base.folder) not in (tmp_path / "config.json").read_text()


def test_stable_diffusions_own_sampler_and_extra_folders_do_no_harm(folder):
    change(
        folder / "scheduler" / "scheduler_config.json",
        _class_name="PNDMScheduler",
        skip_prk_steps=True,
        beta_end=0.01,
    )
    (folder / "safety_checker").mkdir()
    (folder / "siamdiff.json").unlink()
    loaded = load_base(str(folder))
    assert loaded.scheduler.config["beta_end"] == 0.01
    assert loaded.hint_channels == (16, 32, 64, 128, 256)  # the paper's


def test_half_precision_files_are_loaded_in_fp32(folder):
    for path in (folder / "vae" / WEIGHTS, folder / "text_encoder" / "model.safetensors"):
        save_file(
            {name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"}
        )
    loaded = load_base(str(folder))
    assert loaded.vae.dtype == loaded.text_encoder.dtype == torch.float32


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named_beside_what_is_there(folder, part):
    shutil.rmtree(folder / part)
    message = refusal(folder)
    assert f"lacks {part}/" in message and "model_index.json" in message


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    assert "there: nothing" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["vae/" + WEIGHTS, "unet/" + WEIGHTS, "text_encoder/model.safetensors"])
def test_missing_and_unexpected_weights_are_named(folder, part):
    weights = load_file(folder / part)
    name = sorted(weights)[0]
    taken = weights.pop(name)
    save_file(weights, folder / part, metadata={"format": "pt"})
    assert name.split(".", 1)[1] in refusal(folder)
    save_file(
        weights | {name: taken, "foreign.weight": torch.zeros(1)}, folder / part, metadata={"format": "pt"}
    )
    assert "foreign.weight" in refusal(folder)


def test_weights_that_are_cut_short_are_refused(folder):
    path = folder / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])
    assert "unet/ cannot be loaded" in refusal(folder)


def test_pickled_weights_are_not_read(folder):
    path = folder / "vae" / WEIGHTS
    torch.save(load_file(path), path.with_name("diffusion_pytorch_model.bin"))
    path.unlink()
    assert "safetensors" in refusal(folder)


def test_a_config_that_does_not_parse_is_refused(folder):
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    assert "scheduler/ cannot be loaded" in refusal(folder)


def test_a_unet_of_other_latents_is_refused(folder, base):
    unet = type(base.unet).from_config({**base.unet.config, "in_channels": 9})
    unet.save_pretrained(folder / "unet")
    assert "unet in_channels is 9, must be 4" in refusal(folder)


def test_a_unet_of_another_text_width_is_refused(folder, base):
    unet = type(base.unet).from_config({**base.unet.config, "cross_attention_dim": 32})
    unet.save_pretrained(folder / "unet")
    assert "unet cross_attention_dim is 32, must be 64" in refusal(folder)


def test_a_vae_of_another_factor_is_refused(folder, base):
    config = dict(base.vae.config)
    for key in ("down_block_types", "up_block_types", "block_out_channels"):
        config[key] = config[key][:3]
    type(base.vae).from_config(config).save_pretrained(folder / "vae")
    assert "vae downsampling factor is 4, must be 8" in refusal(folder)


def test_a_base_that_predicts_velocity_is_refused(folder):
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert "prediction_type is v_prediction, must be epsilon" in refusal(folder)


def test_the_digest_changes_with_any_byte_or_name_but_not_with_the_info_file(folder):
    digest = folder_digest(folder)
    change(folder / "siamdiff.json", note="anything")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    assert folder_digest(folder) == digest
    path = folder / "vae" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    changed = folder_digest(folder)
    path.rename(path.with_name("renamed.safetensors"))
    assert len({digest, changed, folder_digest(folder)}) == 3


def test_prompts_become_states_of_one_length(base):
    text = encode_prompts(base.tokenizer, base.text_encoder, ["", "a polyp", "long " * 100])
    assert text.shape == (3, 77, 64)
    assert not text.requires_grad
    assert not torch.equal(text[0], text[1])


def test_latents_are_drawn_from_the_posterior_and_scaled(base):
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    mean, logvar = encode_moments(base.vae, image)
    assert mean.shape == logvar.shape == (2, 4, 4, 6)
    noise = torch.randn_like(mean)
    z_0 = sample_latent(mean, logvar, noise, 0.5)
    torch.testing.assert_close(z_0, 0.5 * (mean + logvar.exp().sqrt() * noise))


def test_decoding_undoes_the_scale_and_gives_bytes(base):
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    mean, _ = encode_moments(base.vae, image)
    decoded = decode_latents(base.vae, mean * base.vae.config["scaling_factor"])
    assert (decoded.shape, decoded.dtype) == ((2, 32, 48, 3), np.uint8)
    with torch.no_grad():
        direct = base.vae.decode(mean).sample.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(decoded / 127.5 - 1, np.clip(direct, -1, 1), atol=0.005)
