"""The trained module of a configuration, on a base: which networks there are and which of them learn."""

from siamdiff.config import Config
from siamdiff.model.base import Base
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.siamese import SiameseDiffusion


def build_model(config: Config, base: Base) -> SiameseDiffusion:
    """The module that training starts from: the base's own UNet, and a control network made from it.

    New weights (the hint encoder's) come from PyTorch's global random state.
    """
    widths = config.model.hint_channels or base.hint_channels
    controlnet = SiameseControlNetModel.from_unet(
        base.unet, hint_channels=None if config.model.control == "plain" else widths
    )
    return SiameseDiffusion(base.unet, controlnet, base.scheduler.alphas_cumprod)
