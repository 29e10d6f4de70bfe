"""ControlNet with DHI, on its own and inside diffusers."""

import logging
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from siamdiff.errors import UserError
from siamdiff.model.controlnet import SiameseControlNetModel
from tests.training.reference import TINY_HINT_CHANNELS, TINY_UNET, tiny_inputs, tiny_model


def test_starts_as_a_copy_of_the_encoder_that_controls_nothing() -> None:
    unet = UNet2DConditionModel(**TINY_UNET)
    controlnet = SiameseControlNetModel.from_unet(unet)
    theirs, ours = unet.state_dict(), controlnet.state_dict()
    copied = [
        k for k in theirs if k.startswith(("conv_in.", "time_embedding.", "down_blocks.", "mid_block."))
    ]
    torch.testing.assert_close({k: ours[k] for k in copied}, {k: theirs[k] for k in copied}, rtol=0, atol=0)
    hint = controlnet.hint(torch.rand(1, 3, 64, 64))
    maps = controlnet.controls(torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 5, 12), hint)
    assert len(maps) == 5  # first convolution, one layer and one down-sampler, one layer, middle
    assert not any(c.any() for c in maps)


@torch.no_grad()
def test_controls_are_what_forward_returns() -> None:
    controlnet, inputs = tiny_model().controlnet, tiny_inputs([5, 700])
    down, middle = controlnet(inputs.z_0, inputs.t, inputs.text, inputs.image, return_dict=False)
    maps = controlnet.controls(inputs.z_0, inputs.t, inputs.text, controlnet.hint(inputs.image))
    torch.testing.assert_close(maps, (*down, middle), rtol=0, atol=0)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    controlnet, inputs = tiny_model(dtype=torch.float32).controlnet, tiny_inputs([5], dtype=torch.float32)
    controlnet.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = SiameseControlNetModel.from_pretrained(tmp_path)
    assert not caplog.records  # no "unexpected configuration key" and no missing weight
    assert tuple(loaded.config.hint_channels) == TINY_HINT_CHANNELS
    arguments = (inputs.z_0, inputs.t, inputs.text, inputs.mask)
    torch.testing.assert_close(loaded.state_dict(), controlnet.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        loaded(*arguments, return_dict=False), controlnet(*arguments, return_dict=False), rtol=1e-4, atol=1e-6
    )


def test_checkpointing_can_be_switched_on() -> None:
    controlnet = tiny_model().controlnet
    controlnet.enable_gradient_checkpointing()
    assert controlnet.is_gradient_checkpointing


def test_a_unet_of_another_kind_is_refused() -> None:
    unet = UNet2DConditionModel(**TINY_UNET, class_embed_type="timestep")
    with pytest.raises(UserError, match="class_embed_type='timestep'"):
        SiameseControlNetModel.from_unet(unet)
