"""ControlNet with DHI, on its own and inside diffusers."""

import logging
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

from siamdiff.errors import UserError
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.training.losses import weights_at
from tests.training.reference import TINY_HINT_CHANNELS, TINY_UNET, naive_loss, tiny_inputs, tiny_model


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


def plain_model(dtype: torch.dtype = torch.float64) -> SiameseDiffusion:
    """tiny_model with ControlNet's own hint encoder."""
    model = tiny_model()
    torch.manual_seed(1)
    controlnet = SiameseControlNetModel.from_unet(model.unet, hint_channels=None)
    for parameter in controlnet.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return SiameseDiffusion(model.unet, controlnet, model.alphas_cumprod).to(dtype)


def test_plain_is_diffusers_own_controlnet() -> None:
    """The same weights, by name, in plain diffusers' class give the same maps, whatever the hint."""
    ours, inputs = plain_model().controlnet, tiny_inputs([5, 700])
    encoder = ours.controlnet_cond_embedding
    assert type(encoder) is ControlNetConditioningEmbedding
    assert [encoder.conv_in.out_channels, *(b.out_channels for b in encoder.blocks)] == [
        16, 16, 32, 32, 96, 96, 256,
    ]  # fmt: skip
    theirs = ControlNetModel.from_unet(UNet2DConditionModel(**TINY_UNET)).double()
    theirs.load_state_dict(ours.state_dict())
    maps = ours.controls(inputs.z_0, inputs.t, inputs.text, ours.hint(inputs.image))
    down, middle = theirs(inputs.z_0, inputs.t, inputs.text, inputs.image, return_dict=False)
    torch.testing.assert_close(maps, (*down, middle), rtol=0, atol=0)


def test_plain_starts_by_controlling_nothing() -> None:
    controlnet = SiameseControlNetModel.from_unet(UNet2DConditionModel(**TINY_UNET), hint_channels=None)
    assert not controlnet.hint(torch.rand(1, 3, 64, 64)).any()


def test_plain_learns_from_both_branches() -> None:
    """Table 5, settings 3 to 5: the image passes through the same hint encoder."""
    inputs, ours, theirs = tiny_inputs([150, 700]), plain_model(), plain_model()
    loss, _ = ours(inputs, weights_at(20, 30))
    loss.backward()
    expected = naive_loss(theirs, inputs, 20, 30)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("hints", ["dhi", "plain"])
@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hints: str
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    model = plain_model(torch.float32) if hints == "plain" else tiny_model(dtype=torch.float32)
    controlnet, inputs = model.controlnet, tiny_inputs([5], dtype=torch.float32)
    controlnet.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = SiameseControlNetModel.from_pretrained(tmp_path)
    assert not caplog.records  # no "unexpected configuration key" and no missing weight
    widths = loaded.config.hint_channels
    assert widths is None if hints == "plain" else tuple(widths) == TINY_HINT_CHANNELS
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
