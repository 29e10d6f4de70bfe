"""Siamese-Diffusion: Mask- and Image-Diffusion share one UNet and one ControlNet.

One call of `SiameseDiffusion` is one training step's forward: every network pass inside it is needed, none is made
twice. Before Online-Augmentation these are two of DHI (mask, image), one of ControlNet (both in one batch), one of the
encoder and two of the decoder; Online-Augmentation adds ControlNet, encoder and decoder on the samples it takes.
Without image branch there is one pass of each, of the masks alone.

Shapes: see `StepInputs`; latents (B, 4, h, w) with h = H/8, w = W/8.
"""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.diffusion import q_sample, renoise
from siamdiff.model.unet import (
    Controls,
    Encoded,
    TrainedUNet,
    decode,
    encode,
    freeze_untrained,
    weights_at_rest,
)
from siamdiff.training.losses import (
    Augmented,
    LossWeights,
    Predictions,
    augmentation_weight,
    augmented_samples,
    image_loss,
    mix,
    siamese_loss,
)


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """One batch of a training step, all drawn by the caller; latents and noise in fp32 whatever the networks' dtype."""

    z_0: Tensor  # (B, 4, h, w), VAE latent times the VAE's scaling factor
    noise: Tensor  # (B, 4, h, w), standard normal
    t: Tensor  # (B,), integers in [0, 999]
    text: Tensor  # (B, L, D), text encoder states
    image: Tensor  # (B, 3, H, W), in [0, 1]
    mask: Tensor  # (B, 3, H, W), in {0, 1}
    weight: Tensor | None = None  # (B,), of the samples in every mean over the batch; None: 1 for all


def predict_noise(
    unet: UNet2DConditionModel,
    controlnet: SiameseControlNetModel,
    z_t: Tensor,
    t: Tensor,
    text: Tensor,
    hint: Tensor,
    control_text: Tensor | None = None,
) -> Tensor:
    """Mask-Diffusion: eps_m = UNet(z_t, t, c_t, c_m), in the dtype of z_t.

    Args:
        unet, controlnet: the trained pair.
        z_t, t, text: (B, 4, h, w), (B,), (B, L, D).
        hint: (B, C0, h, w), DHI's output for the masks.
        control_text: the text in the ControlNet's dtype, where the caller holds it.
    """
    control_mask = controlnet.controls(z_t, t, text if control_text is None else control_text, hint)
    encoded = _encode(unet, z_t, t, text)
    return decode(unet, encoded, text, control_mask).to(z_t.dtype)  # (B, 4, h, w)


def _encode(unet: UNet2DConditionModel, z_t: Tensor, t: Tensor, text: Tensor) -> Encoded:
    """The UNet's encoder; where it is frozen, without a trace in autograd."""
    learns = unet.conv_in.weight.requires_grad
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        return encode(unet, z_t, t, text)


def _detached(encoded: Encoded) -> Encoded:
    return Encoded(
        tuple(skip.detach() for skip in encoded.skips), encoded.middle.detach(), encoded.emb.detach()
    )


class SiameseDiffusion(nn.Module):
    """What DeepSpeed or DDP wraps: the networks, and the loss as their one `forward`.

    Args:
        unet: of Stable Diffusion 1.x's kind; what does not learn of it is frozen here.
        controlnet: usually SiameseControlNetModel.from_unet(unet).
        alphas_cumprod: (1000,), fp32, from the base's noise schedule.
        trained_unet: which parts of the UNet learn; the paper's is its decoder.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: SiameseControlNetModel,
        alphas_cumprod: Tensor,
        trained_unet: TrainedUNet = "decoder",
    ) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet
        # Not a buffer: DeepSpeed casts floating buffers to the networks' dtype, and bf16 would keep 3 digits of abar.
        self.alphas_cumprod = alphas_cumprod
        freeze_untrained(unet, trained_unet)

    @property
    def control(self) -> SiameseControlNetModel:
        """The network that reads the masks, by the name that it has in the modules of every baseline."""
        return self.controlnet

    def forward(
        self, inputs: StepInputs, weights: LossWeights, active: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step (Eq. 6) and its terms; see `siamese_loss`. Works with autograd off, for validation.

        Args:
            inputs: the batch.
            weights: weights of this step, `weights_at(k, N)`.
            active: (A,) indices of the samples to put through Online-Augmentation; by default those with t <= t_tau
                and a weight, which takes a look at the values of t, impossible on the meta device.
        """
        return siamese_loss(self.predict(inputs, weights, active), weights)

    def predict(self, inputs: StepInputs, weights: LossWeights, active: Tensor | None = None) -> Predictions:
        """Every prediction of one training step; arguments as in `forward`."""
        noise, t, text, weight = inputs.noise, inputs.t, inputs.text, inputs.weight
        z_t = q_sample(inputs.z_0, noise, t, self.alphas_cumprod)  # (B, 4, h, w)
        hints = [inputs.mask] if weights.w_i is None else [inputs.mask, inputs.image]
        hint_mask, controls = self._controls(hints, z_t, t, text)
        control_mask = controls[0]
        encoded = _encode(self.unet, z_t, t, text)  # serves eps_mix and eps_m
        eps_mix = L_i = augmented = None
        if weights.w_i is not None:
            # The image branch comes first, since its decoder graph is gone when it returns. Its UNet is a copy that is
            # thrown away: nothing of it learns, be it the encoder.
            copied = _detached(encoded)
            with weights_at_rest(self.unet):
                eps_mix, L_i = image_loss(
                    lambda control_mix: decode(self.unet, copied, text, control_mix).to(noise.dtype),
                    mix(controls[1], control_mask, weights.w_i, weights.w_m),
                    noise,
                    weight,
                )
        eps_mask = decode(self.unet, encoded, text, control_mask).to(noise.dtype)  # (B, 4, h, w)
        if weights.augment and eps_mix is not None:
            active = augmented_samples(t, weights.t_tau, weight) if active is None else active  # (A,)
            w_a = augmentation_weight(t, weights.t_tau, weight)[active]  # (A,)
            z_t_prime = renoise(z_t, noise, eps_mix, t, self.alphas_cumprod)  # (B, 4, h, w)
            a = (tensor[active] for tensor in (z_t_prime, t, text, hint_mask))  # each (A, ...)
            eps_prime = predict_noise(self.unet, self.controlnet, *a)  # (A, 4, h, w)
            augmented = Augmented(eps_prime, noise[active], w_a)
        return Predictions(noise, control_mask, eps_mask, eps_mix, L_i, augmented, weight)

    def _controls(
        self, images: list[Tensor], z_t: Tensor, t: Tensor, text: Tensor
    ) -> tuple[Tensor, list[Controls]]:
        """The first image's hint, and the controls of each: of the mask, or of mask and image.

        n images pass the ControlNet as one batch of nB: the arithmetic is that of n passes, but the weights are
        gathered once under ZeRO-3, and the kernels are better filled. Hints are encoded one after the other: at the
        images' full resolution kernels are filled anyway, and recomputing takes the memory of one.
        """
        n = len(images)
        hints = torch.cat([self.controlnet.hint(image) for image in images])  # (nB, C0, h, w)
        z_t, t, text = torch.cat(n * [z_t]), torch.cat(n * [t]), torch.cat(n * [text])
        controls = self.controlnet.controls(z_t, t, text, hints)  # each (nB, C_l, h_l, w_l)
        return hints.chunk(n)[0], list(zip(*(c.chunk(n) for c in controls), strict=True))
