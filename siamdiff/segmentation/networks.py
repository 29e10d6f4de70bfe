"""Segmentation networks: RGB images in, one logit of the lesion per pixel out."""

from monai.networks.nets.basic_unet import BasicUNet

SMALL_UNET = (
    8,
    16,
    32,
    64,
    64,
    8,
)  # 0.3 M parameters: 300 steps of 16 images of 64 x 64 in half a minute on one core


def unet(features: tuple[int, int, int, int, int, int] = SMALL_UNET) -> BasicUNet:
    """MONAI's BasicUNet from (N, 3, H, W) in [-1, 1] to logits (N, 1, H, W), H and W at least 16.

    Args:
        features: channels of the five levels from fine to coarse, and of the last layer.
    """
    # Batch norm: instance norm would remove each image's own colour, often all that sets a lesion off.
    return BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=features, norm="batch")
