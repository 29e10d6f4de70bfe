"""What ships of Stable Diffusion 1.x."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from siamdiff.model.sd1 import make_scheduler, make_tokenizer, network_config


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("text", ["a photo of a cat", "A  Photo\nof a CAT"])
def test_prompts_have_clips_tokens(tokenizer, text):
    assert tokenizer(text).input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_the_tokenizer_is_clips_in_size_and_padding(tokenizer):
    assert len(tokenizer) == 49408
    ids = tokenizer("", padding="max_length").input_ids
    assert ids == [49406] + 76 * [49407]


def test_a_saved_tokenizer_says_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    text = "an endoscopy image with a 3mm polyp, Größe"
    assert again(text, padding="max_length").input_ids == tokenizer(text, padding="max_length").input_ids


def test_the_networks_have_the_size_of_stable_diffusion_1():
    """As LDM prints them when it starts: 859.52 M, 83.65 M and 123.06 M."""
    with torch.device("meta"):
        networks = (
            UNet2DConditionModel(**network_config("unet")),
            AutoencoderKL(**network_config("vae")),
            CLIPTextModel(CLIPTextConfig(**network_config("text_encoder"))),
        )
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [859_520_964, 83_653_863, 123_060_480]


def test_the_schedule_is_stable_diffusions():
    scheduler = make_scheduler()
    assert scheduler.config["beta_end"] == 0.012 and scheduler.config["prediction_type"] == "epsilon"
    assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=1e-5)
