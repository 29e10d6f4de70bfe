"""The noise that a trained model predicts under given masks, whichever network brings the control.

Whatever depends neither on t nor on z_t is computed once, before the first step, for all steps and both branches of
classifier-free guidance.

Shapes: mask (B, 3, H, W) in {0, 1}; image (B, 3, H, W) in [0, 1]; latents of n branches (nB, 4, h, w).
"""

from collections.abc import Callable

import torch
from diffusers import T2IAdapter, UNet2DConditionModel
from torch import Tensor

from siamdiff.model.adapter import adapter_features, predict_noise_adapted
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.siamese import predict_noise
from siamdiff.model.unet import decode, encode
from siamdiff.training.losses import mix

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]  # z_t (nB, 4, h, w), t (nB,), text (nB, L, D) -> eps
Control = SiameseControlNetModel | T2IAdapter


def predictor(
    unet: UNet2DConditionModel,
    control: Control,
    mask: Tensor,
    branches: int,
    image: Tensor | None = None,
    image_weight: float = 1.0,
) -> Predictor:
    """What predicts eps, in the dtype of z_t, for `branches` copies of a batch.

    Args:
        unet, control: the trained pair, in their own dtype.
        mask: (B, 3, H, W) in {0, 1}.
        branches: copies of the batch, 2 with classifier-free guidance.
        image: (B, 3, H, W) in [0, 1], the masks' real images, for control by c_mix ("M+I"); else by c_m. Not for an
            adapter, which was trained on masks alone.
        image_weight: w_i of Eq. 5.
    """
    if isinstance(control, T2IAdapter):
        assert image is None, "an adapter was trained on masks alone"
        features = tuple(torch.cat(branches * [x]) for x in adapter_features(control, mask))
        return lambda z_t, t, text: predict_noise_adapted(unet, z_t, t, text, features)
    if image is None:
        hint = torch.cat(branches * [control.hint(mask)])  # (nB, C0, h, w)
        return lambda z_t, t, text: predict_noise(unet, control, z_t, t, text, hint)
    return _mixed(unet, control, mask, image, image_weight, branches)


def _mixed(
    unet: UNet2DConditionModel,
    controlnet: SiameseControlNetModel,
    mask: Tensor,
    image: Tensor,
    w_i: float,
    branches: int,
) -> Predictor:
    """Eq. 5 in sampling: c_mix = w_i c_i + c_m; mask and image pass the ControlNet as one batch."""
    hint_mask, hint_image = controlnet.hint(torch.cat([mask, image])).chunk(2)
    hints = torch.cat(branches * [hint_mask] + branches * [hint_image])  # (2nB, C0, h, w)

    def predict(z_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        twice = (torch.cat([x, x]) for x in (z_t, t, text))
        controls = controlnet.controls(*twice, hint=hints)
        control_mask, control_image = zip(*(c.chunk(2) for c in controls), strict=True)
        control_mix = mix(control_image, control_mask, w_i)  # each (nB, C_l, h_l, w_l)
        return decode(unet, encode(unet, z_t, t, text), text, control_mix).to(z_t.dtype)

    return predict
