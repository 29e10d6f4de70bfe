"""LPIPS with the real SqueezeNet features and heads against arithmetic written out, layer by layer, in float64."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from siamdiff.data.phantom import render_phantom
from siamdiff.errors import UserError
from siamdiff.evaluation.perceptual import Lpips, backbone


@pytest.fixture(scope="module")
def files(shared: Path) -> tuple[Path, Path]:
    """Features and heads."""
    found = (
        shared / "weights" / "squeezenet" / "squeezenet_v1.1_notop_torchvision_names.npz",
        shared / "weights" / "lpips" / "v0.1" / "squeeze.pth",
    )
    for file in found:
        if not file.is_file():
            pytest.skip(f"{file} is missing")
    return found


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([render_phantom(0, index, 64)[0] for index in range(4)])


def by_hand(image: np.ndarray, other: np.ndarray, weights: dict, heads: dict) -> float:
    def fire(x: torch.Tensor, index: int) -> torch.Tensor:
        def conv(x: torch.Tensor, part: str, padding: int = 0) -> torch.Tensor:
            name = f"features.{index}.{part}"
            return torch.relu(
                F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)
            )

        x = conv(x, "squeeze")
        return torch.cat([conv(x, "expand1x1"), conv(x, "expand3x3", padding=1)], 1)

    def features(pixels: np.ndarray) -> list[torch.Tensor]:
        x = torch.from_numpy(pixels).double().permute(2, 0, 1)[None] / 255 * 2 - 1
        shift, scale = (
            torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
        )
        x = (x - shift) / scale
        x = torch.relu(F.conv2d(x, weights["features.0.weight"], weights["features.0.bias"], stride=2))
        found = [x]
        for group in ((3, 4), (6, 7), (9,), (10,), (11,), (12,)):
            if group[0] in (3, 6, 9):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            for index in group:
                x = fire(x, index)
            found.append(x)
        return found

    total = 0.0
    for i, (a, b) in enumerate(zip(features(image), features(other), strict=True)):
        a, b = (f[0] / (f[0].norm(dim=0) + 1e-10) for f in (a, b))
        w = heads[f"lin{i}.model.1.weight"].view(-1, 1, 1)
        total += float((w * (a - b) ** 2).sum(0).mean())
    return total


def test_lpips_is_that_of_arithmetic_by_hand(files: tuple[Path, Path], images: np.ndarray) -> None:
    weights = {name: torch.from_numpy(array).double() for name, array in np.load(files[0]).items()}
    heads = {name: value.double() for name, value in torch.load(files[1], map_location="cpu").items()}
    measure = Lpips("squeezenet", *files)
    others = np.roll(images, 1, 0)
    found = measure(images, others)
    assert found.dtype == np.float32 and measure.spec.dimensions == 2240
    for i in range(len(images)):
        assert found[i] == pytest.approx(by_hand(images[i], others[i], weights, heads), rel=1e-4)


def test_lpips_grows_with_the_difference(files: tuple[Path, Path], images: np.ndarray) -> None:
    measure = Lpips("squeezenet", *files)
    noise = np.random.default_rng(0).normal(size=images.shape)
    noisy = [np.clip(images + level * noise, 0, 255).astype(np.uint8) for level in (0, 10, 40)]
    same, little, much = (measure(images, other) for other in noisy)
    assert (same == 0).all() and (little > 0).all() and (much > little).all()
    np.testing.assert_allclose(measure(noisy[1], images), little, rtol=1e-4)
    assert measure(images[:0], images[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_other_backbones_take_any_file_that_fits(tmp_path: Path, images: np.ndarray, name: str) -> None:
    parts = backbone(name)
    torch.manual_seed(0)
    state = {
        f"features.{key}": value for key, value in torch.nn.Sequential(*parts.layers).state_dict().items()
    }
    heads = {f"lin{i}.model.1.weight": torch.rand(1, count, 1, 1) for i, count in enumerate(parts.channels)}
    torch.save(state | {"classifier.1.weight": torch.zeros(2)}, tmp_path / "a.pth")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(heads, tmp_path / "h.pth")
    found = [
        Lpips(name, tmp_path / file, tmp_path / "h.pth")(images[:1], images[1:2])
        for file in ("a.pth", "a.safetensors")
    ]
    assert found[0] == found[1] > 0


def test_files_of_something_else_are_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    for file, message in (
        ("text.pth", "holds no weights that can be read"),
        ("other.pth", r"holds no squeezenet: features.0.weight \(64, 3, 3, 3\) is \(3,\)"),
        ("list.pth", "holds no state dict"),
        ("none.npz", "holds no weights that can be read"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            Lpips("squeezenet", tmp_path / file, tmp_path / file)
        assert "\n" not in str(caught.value)
