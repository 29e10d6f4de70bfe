"""One training step written down naively, as the released code does it: deep copies, every pass made in full.

The oracle for gradients: `siamdiff` must arrive at the same ones without copying or repeating anything. It uses
diffusers' own forward() of UNet and ControlNet, and shares no code with siamdiff.model.siamese or the losses.
"""

from copy import deepcopy

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.siamese import SiameseDiffusion, StepInputs
from siamdiff.model.unet import TrainedUNet

# Widths of a ControlNet + UNet pair of Stable Diffusion's kind that a CPU trains in a fraction of a second.
TINY_UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
TINY_HINT_CHANNELS = (4, 4, 8, 8, 16)


def tiny_model(
    seed: int = 0, dtype: torch.dtype = torch.float64, trained_unet: TrainedUNet = "decoder"
) -> SiameseDiffusion:
    """A model whose zero convolutions are not zero, so that every gradient is alive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**TINY_UNET)
        controlnet = SiameseControlNetModel.from_unet(unet, hint_channels=TINY_HINT_CHANNELS)
        for parameter in controlnet.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
        alphas_cumprod = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)
        return SiameseDiffusion(unet, controlnet, alphas_cumprod, trained_unet).to(dtype)


def tiny_inputs(t: list[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> StepInputs:
    """A batch with the given timesteps, 64 x 64 pixels."""
    generator = torch.Generator().manual_seed(seed)
    b = len(t)

    def normal(*shape: int) -> Tensor:
        return torch.randn(b, *shape, generator=generator, dtype=dtype)

    return StepInputs(
        z_0=normal(4, 8, 8),
        noise=normal(4, 8, 8),
        t=torch.tensor(t),
        text=normal(5, TINY_UNET["cross_attention_dim"]),
        image=torch.rand(b, 3, 64, 64, generator=generator, dtype=dtype),
        mask=(normal(1, 64, 64) > 0).to(dtype).expand(b, 3, 64, 64),
    )


def naive_loss(
    model: SiameseDiffusion,
    inputs: StepInputs,
    k: int,
    n_steps: int,
    w_c: float = 1.0,
    *,
    image_branch: bool = True,
    w_i: float | None = None,
    online_augmentation: bool = True,
) -> Tensor:
    """L of step `k`, whose backward() gives the gradients that the released code gives."""
    unet, controlnet = model.unet, model.controlnet
    unet_copy, controlnet_copy = deepcopy(unet), deepcopy(controlnet)
    z_0, eps, t, text = inputs.z_0, inputs.noise, inputs.t, inputs.text
    abar = model.alphas_cumprod[t].to(z_0.dtype).reshape(-1, 1, 1, 1)
    z_t = abar.sqrt() * z_0 + (1 - abar).sqrt() * eps

    def predict(net: UNet2DConditionModel, z: Tensor, down: list[Tensor], middle: Tensor) -> Tensor:
        return net(
            z,
            t,
            text,
            down_block_additional_residuals=tuple(down),
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]

    def mse(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b) ** 2).mean(dim=(1, 2, 3))

    down_m, middle_m = controlnet(z_t, t, text, inputs.mask, return_dict=False)
    eps_m = predict(unet, z_t, down_m, middle_m)
    loss = mse(eps_m, eps).mean()  # L_m
    if not image_branch:
        return loss
    down_i, middle_i = controlnet(z_t, t, text, inputs.image, return_dict=False)
    with torch.no_grad():
        down_sg, middle_sg = controlnet_copy(z_t, t, text, inputs.mask, return_dict=False)
    w_i = k / n_steps if w_i is None else w_i
    down_mix = [w_i * a + b for a, b in zip(down_i, down_sg, strict=True)]
    eps_mix = predict(unet_copy, z_t, down_mix, w_i * middle_i + middle_sg)
    loss = loss + mse(eps_mix, eps).mean()  # L_i
    loss = loss + w_c * mse(eps_m, eps_mix.detach()).mean()  # L_c
    if online_augmentation and k > n_steps / 3:
        z_0_prime = (z_t - (1 - abar).sqrt() * eps_mix.detach()) / abar.sqrt()
        z_t_prime = abar.sqrt() * z_0_prime + (1 - abar).sqrt() * eps
        down, middle = controlnet(z_t_prime, t, text, inputs.mask, return_dict=False)
        w_a = (t <= 200).to(z_0.dtype)
        loss = loss + (w_a * mse(predict(unet, z_t_prime, down, middle), eps)).mean()  # L_m'
    return loss
