"""The trained module of a configuration, on a base: which networks there are and which of them learn."""

from siamdiff.config import Config
from siamdiff.model.adapter import AdapterDiffusion, adapter_for
from siamdiff.model.base import Base
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.model.unet import TrainedUNet


def build_model(config: Config, base: Base) -> SiameseDiffusion | AdapterDiffusion:
    """The module that training starts from: the base's own UNet, and a network for control made to fit it.

    New weights (the hint encoder's, the adapter's) come from PyTorch's global random state.
    """
    return assemble(base, config.model.control, config.model.hint_channels, config.train.trained_unet)


def assemble(
    base: Base, control: str, hint_channels: tuple[int, ...] | None, trained_unet: TrainedUNet
) -> SiameseDiffusion | AdapterDiffusion:
    """`build_model` of those fields of a configuration that it depends on."""
    unet, alphas_bar = base.unet, base.scheduler.alphas_cumprod
    if control == "t2i-adapter":
        return AdapterDiffusion(unet, adapter_for(unet), alphas_bar, trained_unet)
    widths = None if control == "plain" else hint_channels or base.hint_channels
    network = SiameseControlNetModel.from_unet(unet, hint_channels=widths)
    return SiameseDiffusion(unet, network, alphas_bar, trained_unet)
