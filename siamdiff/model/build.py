"""The trained module of a configuration, on a base: which networks there are and which of them learn."""

from siamdiff.config import Config
from siamdiff.model.adapter import AdapterDiffusion, adapter_for
from siamdiff.model.base import Base
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.siamese import SiameseDiffusion


def build_model(config: Config, base: Base) -> SiameseDiffusion | AdapterDiffusion:
    """The module that training starts from: the base's own UNet, and a network for control made to fit it.

    New weights (the hint encoder's, the adapter's) come from PyTorch's global random state.
    """
    model, unet = config.model, base.unet
    arguments = base.scheduler.alphas_cumprod, config.train.trained_unet
    if model.control == "t2i-adapter":
        return AdapterDiffusion(unet, adapter_for(unet), *arguments)
    widths = None if model.control == "plain" else model.hint_channels or base.hint_channels
    return SiameseDiffusion(unet, SiameseControlNetModel.from_unet(unet, hint_channels=widths), *arguments)
