"""The networks of Siamese-Diffusion on top of diffusers' own classes."""
