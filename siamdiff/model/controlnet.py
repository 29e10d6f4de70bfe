"""ControlNet with Dense Hint Input: diffusers' ControlNet with another hint encoder, or with its own as a baseline.

Shapes: hint image (B, 3, H, W) in [0, 1]; z_t (B, 4, h, w) with h = H/8; t (B,); text (B, L, D).
"""

from collections.abc import Sequence
from typing import Any

from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor

from siamdiff.errors import UserError
from siamdiff.model.dhi import HINT_CHANNELS, DenseHintInput
from siamdiff.model.unet import Controls, encode

__all__ = ["ModelMixin", "SiameseControlNetModel"]  # what siamdiff/__init__.py shows to diffusers

# Options that turn a UNet into another kind than Stable Diffusion 1.x; each must be unset.
FOREIGN_OPTIONS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")

COPIED_PARTS = ("conv_in", "time_embedding", "down_blocks", "mid_block")


class SiameseControlNetModel(ControlNetModel):
    """The one ControlNet that reads masks and images alike (same weights for c_m and c_i).

    `forward` keeps diffusers' signature (controlnet_cond = hint image), so the class serves in diffusers' pipelines.
    Where a hint is used more than once, call `hint` once and `controls` as often as needed.

    Args:
        hint_channels: DHI's five widths (siamdiff.model.dhi); None keeps ControlNet's own hint encoder, of widths
            `conditioning_embedding_out_channels` (16, 32, 96, 256): settings 1, 3, 4 and 5 of the paper's Table 5.
        kwargs: every option of diffusers' ControlNetModel.
    """

    __module__ = "siamdiff"  # the public path, which saved models name; it must never change

    @register_to_config
    def __init__(self, hint_channels: Sequence[int] | None = HINT_CHANNELS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if hint_channels is not None:
            self.controlnet_cond_embedding = DenseHintInput(
                hint_channels, self.config["block_out_channels"][0]
            )

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """Configuration keys of a class; ours come on top of the parent's, which hide behind **kwargs."""
        keys = ConfigMixin._get_init_keys(input_class)
        if issubclass(input_class, SiameseControlNetModel):
            keys |= ConfigMixin._get_init_keys(ControlNetModel)
        return keys

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, *, hint_channels: Sequence[int] | None = HINT_CHANNELS
    ) -> "SiameseControlNetModel":
        """A ControlNet that starts as a copy of the UNet's encoder and middle block, its zero convolutions at zero.

        Args:
            unet: of Stable Diffusion 1.x's kind.
            hint_channels: see the class.

        Raises:
            UserError: the UNet is not of Stable Diffusion 1.x's kind.
        """
        for option in FOREIGN_OPTIONS:
            if unet.config[option] is not None:
                raise UserError(
                    f"the base's UNet has {option}={unet.config[option]!r}, but only UNets of Stable Diffusion 1.x's "
                    "kind, where it is unset, can be trained; choose another model.base"
                )
        shared = cls._get_init_keys(cls) & unet.config.keys()
        widths = None if hint_channels is None else tuple(hint_channels)
        controlnet = cls(hint_channels=widths, **{key: unet.config[key] for key in shared})
        for part in COPIED_PARTS:
            controlnet.get_submodule(part).load_state_dict(unet.get_submodule(part).state_dict())
        return controlnet

    def hint(self, image: Tensor) -> Tensor:
        """Hint image (B, 3, H, W) in [0, 1] -> (B, C0, H/8, W/8), which depends neither on t nor on z_t."""
        return self.controlnet_cond_embedding(image.to(dtype=self.dtype))

    def controls(self, z_t: Tensor, t: Tensor, text: Tensor, hint: Tensor) -> Controls:
        """c_m or c_i: the zero convolutions' outputs, in encoder order, the middle block's last.

        Args:
            z_t, t, text: (B, 4, h, w), (B,), (B, L, D).
            hint: (B, C0, h, w), output of `hint`.
        """
        encoded = encode(self, z_t, t, text, hint)
        pairs = zip(self.controlnet_down_blocks, encoded.skips, strict=True)
        return (*(zero_conv(skip) for zero_conv, skip in pairs), self.controlnet_mid_block(encoded.middle))
