"""Small networks in the files and folders in which extractors expect the real ones."""

from pathlib import Path

import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from siamdiff.evaluation.perceptual import backbone


class Script(torch.nn.Module):
    """Called as FID's network is: bytes in, features out where they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 12, 8, 8)

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = self.conv((img.to(torch.float32) - 128) / 128).mean((2, 3))
        return x if return_features else x.softmax(1)


class Other(torch.nn.Module):
    """A script of something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_script(module: torch.nn.Module, file: Path) -> Path:
    """A network as TorchScript."""
    torch.jit.script(module).save(str(file))
    return file


def save_clip(folder: Path) -> Path:
    """A vision model of 24 dimensions and its image processor, as transformers saves them."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=56,
        patch_size=14, projection_dim=24,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(
        folder
    )
    return folder


def save_lpips(folder: Path) -> str:
    """SqueezeNet's features and heads with random weights: FEATURES,HEADS."""
    torch.manual_seed(0)
    parts = backbone("squeezenet")
    state = torch.nn.Sequential(*parts.layers).state_dict()
    torch.save({f"features.{key}": value for key, value in state.items()}, folder / "features.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, count, 1, 1) for i, count in enumerate(parts.channels)}
    torch.save(heads, folder / "heads.pth")
    return f"{folder}/features.pth,{folder}/heads.pth"
