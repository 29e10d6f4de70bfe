"""Nothing is done twice: passes of one training step, counted at each network's last layer."""

from collections import Counter

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from siamdiff.model.siamese import SiameseDiffusion, predict_noise
from siamdiff.model.unet import decode, encode
from siamdiff.training.losses import weights_at
from tests.training.reference import tiny_inputs, tiny_model


def count_samples(model: SiameseDiffusion) -> dict[str, list[int]]:
    """Watches the networks; the result fills with the batch size of every pass."""
    watched: dict[str, nn.Module] = {
        "dhi": model.controlnet.controlnet_cond_embedding,
        "controlnet": model.controlnet.controlnet_mid_block,
        "encoder": model.unet.mid_block,
        "decoder": model.unet.conv_out,
    }
    passes: dict[str, list[int]] = {name: [] for name in watched}
    for name, module in watched.items():
        module.register_forward_hook(lambda _module, _args, out, name=name: passes[name].append(len(out)))
    return passes


@pytest.mark.parametrize(
    ("k", "t", "expected"),
    [
        (10, [100, 200, 201], {"dhi": [3, 3], "controlnet": [6], "encoder": [3], "decoder": [3, 3]}),
        (11, [100, 200, 201], {"dhi": [3, 3], "controlnet": [6, 2], "encoder": [3, 2], "decoder": [3, 3, 2]}),
        (11, [300, 400, 500], {"dhi": [3, 3], "controlnet": [6, 1], "encoder": [3, 1], "decoder": [3, 3, 1]}),
    ],
    ids=["before N/3", "augmented", "one stand-in"],
)
def test_passes_of_a_step(k: int, t: list[int], expected: dict[str, list[int]]) -> None:
    model = tiny_model()
    passes = count_samples(model)
    model(tiny_inputs(t), weights_at(k, 30))[0].backward()
    assert passes == expected


def test_without_image_branch_no_image_is_read_and_the_decoder_runs_once() -> None:
    model = tiny_model()
    passes = count_samples(model)
    model(tiny_inputs([100, 200, 201]), weights_at(20, 30, image_branch=False))[0].backward()
    assert passes == {"dhi": [3], "controlnet": [3], "encoder": [3], "decoder": [3]}


def test_without_online_augmentation_nothing_is_passed_again() -> None:
    model = tiny_model()
    passes = count_samples(model)
    model(tiny_inputs([100, 200, 201]), weights_at(20, 30, online_augmentation=False))[0].backward()
    assert passes == {"dhi": [3, 3], "controlnet": [6], "encoder": [3], "decoder": [3, 3]}


def test_the_frozen_encoder_keeps_no_graph() -> None:
    model, flags = tiny_model(), Counter()
    for block in model.unet.down_blocks:
        block.register_forward_hook(lambda _module, _args, out: flags.update([out[0].requires_grad]))
    model(tiny_inputs([100, 700]), weights_at(20, 30))
    assert flags.keys() == {False}


@torch.no_grad()
def test_predict_noise_is_the_controlled_unet() -> None:
    model, inputs = tiny_model(), tiny_inputs([100, 700])
    hint = model.controlnet.hint(inputs.mask)
    eps = predict_noise(model.unet, model.controlnet, inputs.z_0, inputs.t, inputs.text, hint)
    controls = model.controlnet.controls(inputs.z_0, inputs.t, inputs.text, hint)
    encoded = encode(model.unet, inputs.z_0, inputs.t, inputs.text)
    torch.testing.assert_close(eps, decode(model.unet, encoded, inputs.text, controls), rtol=0, atol=0)


def test_the_schedule_survives_a_cast_of_the_model() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    assert model.alphas_cumprod.dtype == torch.float64


def test_attention_is_pytorchs_own() -> None:
    """The processor that calls scaled_dot_product_attention, in UNet and ControlNet."""
    model = tiny_model()
    processors = [*model.unet.attn_processors.values(), *model.controlnet.attn_processors.values()]
    assert processors
    assert {type(processor) for processor in processors} == {AttnProcessor2_0}
