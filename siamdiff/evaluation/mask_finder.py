"""A given segmenter, asked whether it finds in an image the mask that the image was drawn for."""

import numpy as np
import safetensors.torch
from safetensors import SafetensorError

from siamdiff.errors import UserError
from siamdiff.evaluation.agreement import shrink
from siamdiff.segmentation.metrics import dice_per_image
from siamdiff.segmentation.networks import unet
from siamdiff.segmentation.train import predict, to_tensors


class MaskFinder:
    """A segmenter as evaluation trains and keeps it (`siamdiff.segmentation.networks.unet`).

    Args:
        data: its weights, as safetensors.
        name: of them, for messages.
        device: "cpu" or "cuda".

    Raises:
        UserError: weights of something else.
    """

    def __init__(self, data: bytes, name: str, device: str = "cpu") -> None:
        self._device = device
        self._network = unet()
        try:
            self._network.load_state_dict(safetensors.torch.load(data))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{name} is no segmenter ({' '.join(str(error).split())[:120]}); give a segmenter-*.safetensors that "
                "evaluation keeps under ROOT/evaluation/cache"
            ) from error
        self._network.to(device).eval()

    def __call__(self, images: np.ndarray, masks: np.ndarray) -> list[float]:
        """Dice of each image, uint8 (N, H, W, 3), and its mask, uint8 (N, H, W) in {0, 255}; NaN for an empty mask."""
        pairs = [shrink(image, mask) for image, mask in zip(images, masks, strict=True)]
        small, targets = np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])
        _, truth = to_tensors(small, targets, "cpu")
        return dice_per_image(predict(self._network, small, self._device), truth).tolist()
