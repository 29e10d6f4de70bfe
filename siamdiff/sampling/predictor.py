"""The noise that a trained model predicts under given masks, whichever network brings the control.

Hints depend neither on t nor on z_t: they are encoded once, before the first step, for all steps and both branches of
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

Predictor = Callable[[Tensor, Tensor], Tensor]  # z_t (nB, 4, h, w), t (nB,) -> eps
Control = SiameseControlNetModel | T2IAdapter


def predictor(
    unet: UNet2DConditionModel,
    control: Control,
    mask: Tensor,
    text: Tensor,
    image: Tensor | None = None,
    image_weight: float = 1.0,
) -> Predictor:
    """What predicts eps, in the dtype of z_t, for n copies of a batch: two with classifier-free guidance, else one.

    At every step the networks see the same tensor of texts (see siamdiff.sampling.text).

    Args:
        unet, control: the trained pair, in their own dtype.
        mask: (B, 3, H, W) in {0, 1}.
        text: (nB, L, D), states of the prompts, copy by copy.
        image: (B, 3, H, W) in [0, 1], the masks' real images, for control by c_mix ("M+I"); else by c_m. Not for an
            adapter, which was trained on masks alone.
        image_weight: w_i of Eq. 5.
    """
    n = len(text) // len(mask)
    if isinstance(control, T2IAdapter):
        assert image is None, "an adapter was trained on masks alone"
        features = tuple(torch.cat(n * [x]) for x in adapter_features(control, mask))
        text = text.to(unet.dtype)
        return lambda z_t, t: predict_noise_adapted(unet, z_t, t, text, features)
    if image is None:
        hint = torch.cat(n * [control.hint(mask)])  # (nB, C0, h, w)
        # While a model is trained its frozen part may be in another precision than what learns.
        text, control_text = text.to(unet.dtype), text.to(control.dtype)
        return lambda z_t, t: predict_noise(unet, control, z_t, t, text, hint, control_text)
    return _mixed(unet, control, mask, text, image, image_weight)


def _mixed(
    unet: UNet2DConditionModel,
    controlnet: SiameseControlNetModel,
    mask: Tensor,
    text: Tensor,
    image: Tensor,
    w_i: float,
) -> Predictor:
    """Eq. 5 in sampling: c_mix = w_i c_i + c_m; mask and image pass the ControlNet as one batch."""
    hint_mask, hint_image = controlnet.hint(torch.cat([mask, image])).chunk(2)
    n = len(text) // len(mask)
    hints = torch.cat(n * [hint_mask] + n * [hint_image])  # (2nB, C0, h, w)
    texts = torch.cat([text, text]).to(controlnet.dtype)  # (2nB, L, D)
    text = text.to(unet.dtype)

    def predict(z_t: Tensor, t: Tensor) -> Tensor:
        controls = controlnet.controls(torch.cat([z_t, z_t]), torch.cat([t, t]), texts, hints)
        control_mask, control_image = zip(*(c.chunk(2) for c in controls), strict=True)
        control_mix = mix(control_image, control_mask, w_i)  # each (nB, C_l, h_l, w_l)
        return decode(unet, encode(unet, z_t, t, text), text, control_mix).to(z_t.dtype)

    return predict
