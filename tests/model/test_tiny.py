import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from siamdiff.data.phantom import render_phantom
from siamdiff.model.about import folder_digest
from siamdiff.model.base import load_base
from siamdiff.model.tiny import make_tiny_base, make_tokenizer

PROMPT = "an endoscopy image with a polyp"
SIZE = 32


def phantoms(count, size=SIZE):
    return np.stack([render_phantom(0, index, size)[0] for index in range(count)])


def make(folder, images, seed=0, vae_steps=2, unet_steps=2, progress=None):
    make_tiny_base(
        images,
        images.shape[1],
        seed,
        folder,
        vae_steps=vae_steps,
        unet_steps=unet_steps,
        prompt=PROMPT,
        progress=progress,
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("tiny"), phantoms(8))


def test_the_folder_is_a_stable_diffusion_in_diffusers_layout(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        assert index[part][0] in ("diffusers", "transformers")
        assert (folder / part).is_dir()
    assert not [path.name for path in folder.rglob("*.bin")]


def test_the_libraries_own_loaders_read_every_part(folder):
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    text = text_encoder(tokenizer(PROMPT, return_tensors="pt").input_ids).last_hidden_state
    z = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
    assert z.shape == (1, 4, 8, 8)
    assert unet(z, 10, text).sample.shape == z.shape
    assert vae.decode(z).sample.shape == (1, 3, 64, 64)
    assert scheduler.config.beta_end == 0.012 and scheduler.config.beta_schedule == "scaled_linear"


def test_the_scaling_factor_gives_latents_of_unit_variance(folder):
    base = load_base(str(folder))
    x = torch.from_numpy(phantoms(8)).permute(0, 3, 1, 2).float() / 127.5 - 1
    x = torch.cat([x, x.flip(3)])
    with torch.no_grad():
        z_0 = base.vae.encode(x).latent_dist.sample() * base.vae.config["scaling_factor"]
    assert z_0.std().item() == pytest.approx(1.0, abs=0.05)


def test_the_hint_widths_and_the_provenance_come_with_it(folder):
    info = json.loads((folder / "siamdiff.json").read_text())
    assert info["hint_channels"] == [4, 8, 16, 32, 64]
    assert (info["seed"], info["resolution"], info["images"]) == (0, SIZE, 8)
    assert len(info["images_digest"]) == 64


def test_the_same_input_gives_the_same_bytes_and_another_seed_others(folder, tmp_path):
    again = make(tmp_path / "again", phantoms(8))
    other = make(tmp_path / "other", phantoms(8), seed=1)
    assert folder_digest(again) == folder_digest(folder) != folder_digest(other)


def test_the_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make(tmp_path, phantoms(2))
    assert torch.equal(torch.rand(1), expected)


def test_training_lowers_both_losses_and_tells_of_progress(tmp_path):
    told = []
    for folder, vae_steps, unet_steps in (("short", 1, 1), ("long", 25, 51)):
        make(tmp_path / folder, phantoms(8), 0, vae_steps, unet_steps, lambda *news: told.append(news))
    assert [news[:3] for news in told] == [
        ("vae", 1, 1),
        ("unet", 1, 1),
        ("vae", 25, 25),
        ("unet", 50, 51),
        ("unet", 51, 51),
    ]
    assert told[2][3] < 0.7 * told[0][3]
    assert told[4][3] < 0.85 * told[1][3]


def test_images_larger_than_a_crop_work(tmp_path):
    base = load_base(str(make(tmp_path, phantoms(2, 96), vae_steps=1, unet_steps=1)))
    assert base.unet.config["sample_size"] == 12


@pytest.mark.parametrize("images", [np.zeros((2, 32, 40, 3), np.uint8), np.zeros((2, 32, 32, 3), np.float32)])
def test_images_of_another_shape_or_type_are_refused(images, tmp_path):
    with pytest.raises(ValueError, match="need uint8"):
        make(tmp_path, images)


def test_the_tokenizer_takes_any_text():
    tokenizer = make_tokenizer()
    for text in ("a polyp", "Größe 3 µm", "", "x" * 500, "日本"):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        assert len(ids) == 77
        assert ids[0] == tokenizer.bos_token_id
        assert all(token < 513 for token in ids[1 : ids.index(513)])
    assert tokenizer("a polyp").input_ids != tokenizer("a lesion").input_ids
