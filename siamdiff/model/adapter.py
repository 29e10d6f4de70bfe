"""T2I-Adapter (Mou et al., AAAI 2024), a baseline: a small network reads the mask, the encoder adds its features.

The network is diffusers' own. It sees neither t nor z_t, so its features are computed once per image and sampling.

Shapes: hint image (B, 3, H, W) in [0, 1]; z_t (B, 4, h, w) with h = H/8; t (B,); text (B, L, D); the l-th feature map
(B, C_l, h_l, w_l), one per level of the UNet.
"""

from diffusers import T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn

from siamdiff.model.base import VAE_FACTOR
from siamdiff.model.diffusion import q_sample
from siamdiff.model.siamese import StepInputs
from siamdiff.model.unet import TrainedUNet, decode, encode, freeze_untrained
from siamdiff.training.losses import LossWeights, batch_mean, squared_error

Features = tuple[Tensor, ...]


def adapter_for(unet: UNet2DConditionModel) -> T2IAdapter:
    """A new adapter (the full one, as published for Stable Diffusion 1.x) with the UNet's levels and widths.

    Its weights come from PyTorch's global random state.
    """
    return T2IAdapter(channels=list(unet.config["block_out_channels"]), downscale_factor=VAE_FACTOR)


def adapter_features(adapter: T2IAdapter, image: Tensor) -> Features:
    """Hint image (B, 3, H, W) in [0, 1] -> feature maps in encoder order, in the adapter's dtype."""
    return tuple(adapter(image.to(adapter.dtype)))


def predict_noise_adapted(
    unet: UNet2DConditionModel, z_t: Tensor, t: Tensor, text: Tensor, features: Features
) -> Tensor:
    """eps_m = UNet(z_t, t, c_t, features), (B, 4, h, w), in the dtype of z_t."""
    encoded = encode(unet, z_t, t, text, residuals=features)
    return decode(unet, encoded, text).to(z_t.dtype)  # (B, 4, h, w)


class AdapterDiffusion(nn.Module):
    """What is trained: as SiameseDiffusion, but with an adapter for control, hence Mask-Diffusion and L_m alone.

    Args:
        unet: of Stable Diffusion 1.x's kind; what does not learn of it is frozen here.
        adapter: usually adapter_for(unet).
        alphas_cumprod: (1000,), fp32, from the base's noise schedule.
        trained_unet: which parts of the UNet learn; none, as published.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        adapter: T2IAdapter,
        alphas_cumprod: Tensor,
        trained_unet: TrainedUNet = "none",
    ) -> None:
        super().__init__()
        self.unet = unet
        self.adapter = adapter
        self.alphas_cumprod = alphas_cumprod  # no buffer, for SiameseDiffusion's reason
        freeze_untrained(unet, trained_unet)

    @property
    def control(self) -> T2IAdapter:
        """The network that reads the masks, by the name that it has in the modules of every baseline."""
        return self.adapter

    def forward(
        self, inputs: StepInputs, weights: LossWeights, active: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L = L_m (Eq. 7) and its terms L_m and L; arguments as in SiameseDiffusion, of which only inputs count."""
        z_t = q_sample(inputs.z_0, inputs.noise, inputs.t, self.alphas_cumprod)  # (B, 4, h, w)
        features = adapter_features(self.adapter, inputs.mask)
        eps_mask = predict_noise_adapted(self.unet, z_t, inputs.t, inputs.text, features)  # (B, 4, h, w)
        L_m = batch_mean(squared_error(eps_mask, inputs.noise), inputs.weight)
        return L_m, {"L_m": L_m.detach(), "L": L_m.detach()}
