"""Siamese-Diffusion: paired medical images and lesion masks, trained and generated on a cluster."""

__version__ = "0.1.0"
