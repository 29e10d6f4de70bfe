"""The UNet in two halves."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from siamdiff.model.unet import TrainedUNet, decode, encode, freeze_untrained
from tests.training.reference import TINY_UNET

THREE_LEVELS = {
    **TINY_UNET,
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}


@pytest.mark.parametrize("options", [TINY_UNET, THREE_LEVELS], ids=["two levels", "three levels"])
@pytest.mark.parametrize("size", [(8, 8), (9, 14)], ids=["even", "odd"])
@pytest.mark.parametrize("controlled", [False, True], ids=["plain", "controlled"])
@torch.no_grad()
def test_encode_then_decode_is_the_unet(options: dict, size: tuple[int, int], controlled: bool) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**options)
    z_t, t, text = torch.randn(2, 4, *size), torch.tensor([3, 700]), torch.randn(2, 5, 12)
    encoded = encode(unet, z_t, t, text)
    controls = None
    residuals = {}
    if controlled:
        controls = tuple(torch.randn_like(x) for x in (*encoded.skips, encoded.middle))
        residuals = {
            "down_block_additional_residuals": controls[:-1],
            "mid_block_additional_residual": controls[-1],
        }
    whole = unet(z_t, t, text, **residuals).sample
    torch.testing.assert_close(decode(unet, encoded, text, controls), whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        TINY_UNET,
        {
            **THREE_LEVELS,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        },
    ],
    ids=["two levels", "three levels"],
)
@torch.no_grad()
def test_an_adapters_features_join_where_diffusers_adds_them(options: dict) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**options)
    z_t, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 12)
    widths = options["block_out_channels"]
    residuals = tuple(torch.randn(2, width, 8 >> level, 8 >> level) for level, width in enumerate(widths))
    whole = unet(z_t, t, text, down_intrablock_additional_residuals=list(residuals)).sample
    ours = decode(unet, encode(unet, z_t, t, text, residuals=residuals), text)
    torch.testing.assert_close(ours, whole, rtol=0, atol=0)


def test_decoding_with_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**TINY_UNET)
    freeze_untrained(unet)
    z_t, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 12)
    with torch.no_grad():
        encoded = encode(unet, z_t, t, text)
    gradients = []
    for _ in range(2):
        unet.zero_grad()
        decode(unet, encoded, text).square().mean().backward()
        gradients.append([p.grad.clone() for p in unet.parameters() if p.grad is not None])
        unet.enable_gradient_checkpointing()
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("trained", "parts"),
    [
        ("decoder", {"up_blocks", "conv_norm_out", "conv_out"}),
        ("none", set()),
        (
            "all",
            {
                "conv_in",
                "time_embedding",
                "down_blocks",
                "mid_block",
                "up_blocks",
                "conv_norm_out",
                "conv_out",
            },
        ),
    ],
)
def test_the_named_parts_learn(trained: TrainedUNet, parts: set[str]) -> None:
    unet = UNet2DConditionModel(**TINY_UNET)
    freeze_untrained(unet, trained)
    assert {name.split(".")[0] for name, p in unet.named_parameters() if p.requires_grad} == parts
