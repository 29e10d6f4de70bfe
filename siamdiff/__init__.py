"""Siamese-Diffusion: paired medical images and lesion masks, trained and generated on a cluster.

Diffusers finds a component's class as an attribute of the module that `model_index.json` names, if that module is
imported already, and finds out how to load it by its base class, which it looks for in the same place. So
`import siamdiff` is all a diffusers user needs. Both are loaded on first use: most of this package needs no PyTorch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamdiff.model.controlnet import ModelMixin, SiameseControlNetModel

__all__ = ["ModelMixin", "SiameseControlNetModel"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from siamdiff.model import controlnet

        return getattr(controlnet, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
