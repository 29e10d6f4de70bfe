"""T2I-Adapter on a tiny UNet: its loss, what learns, and how it lies on a disk."""

from pathlib import Path

import pytest
import torch
from diffusers import T2IAdapter, UNet2DConditionModel

from siamdiff.config import Config
from siamdiff.model.adapter import AdapterDiffusion, adapter_features, adapter_for, predict_noise_adapted
from siamdiff.model.base import load_base
from siamdiff.model.build import build_model
from siamdiff.model.folder import load_model, write_model
from siamdiff.model.unet import TrainedUNet
from siamdiff.training.losses import LossWeights, weights_at
from tests.tiny_model import MASK_ALONE, write_base
from tests.training.reference import TINY_UNET, tiny_inputs

ALPHAS_CUMPROD = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)


def adapted_model(trained_unet: TrainedUNet = "none") -> AdapterDiffusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**TINY_UNET)
        return AdapterDiffusion(unet, adapter_for(unet), ALPHAS_CUMPROD, trained_unet).double()


def test_one_feature_map_a_level_of_the_size_of_its_features() -> None:
    unet = UNet2DConditionModel(**TINY_UNET)
    maps = adapter_features(adapter_for(unet), torch.rand(2, 3, 64, 72))
    assert [tuple(x.shape) for x in maps] == [(2, 8, 8, 9), (2, 16, 4, 5)]  # an odd side is rounded up


def test_the_published_size_for_stable_diffusion() -> None:
    with torch.device("meta"):
        adapter = adapter_for(UNet2DConditionModel(cross_attention_dim=768))
    assert sum(p.numel() for p in adapter.parameters()) == 77_369_280


@pytest.mark.parametrize("weights", [weights_at(20, 30), LossWeights(w_i=None, w_c=0.0, augment=None)])
def test_the_loss_is_mask_diffusions_alone(weights: LossWeights) -> None:
    model, inputs = adapted_model(), tiny_inputs([150, 700])
    loss, terms = model(inputs, weights)
    abar = ALPHAS_CUMPROD[inputs.t].reshape(-1, 1, 1, 1)
    z_t = abar.sqrt() * inputs.z_0 + (1 - abar).sqrt() * inputs.noise
    eps = model.unet(
        z_t, inputs.t, inputs.text, down_intrablock_additional_residuals=model.adapter(inputs.mask)
    ).sample
    torch.testing.assert_close(loss, (eps - inputs.noise).square().mean(), rtol=1e-12, atol=0)
    assert terms.keys() == {"L_m", "L"} and terms["L_m"] == terms["L"] == loss


@pytest.mark.parametrize(
    ("trained_unet", "learning"), [("none", set()), ("decoder", {"up_blocks", "conv_norm_out", "conv_out"})]
)
def test_the_adapter_learns_and_of_the_unet_what_is_named(
    trained_unet: TrainedUNet, learning: set[str]
) -> None:
    model = adapted_model(trained_unet)
    loss, _ = model(tiny_inputs([150, 700]), weights_at(0, 30))
    loss.backward()
    assert {n.split(".")[0] for n, p in model.unet.named_parameters() if p.grad is not None} == learning
    assert all(p.grad is not None and p.grad.any() for p in model.adapter.parameters())


@torch.no_grad()
def test_features_of_another_dtype_than_the_trajectory() -> None:
    model, inputs = adapted_model().to(torch.bfloat16), tiny_inputs([5], dtype=torch.float32)
    features = adapter_features(model.adapter, inputs.mask)
    assert {x.dtype for x in features} == {torch.bfloat16}
    assert (
        predict_noise_adapted(model.unet, inputs.z_0, inputs.t, inputs.text, features).dtype == torch.float32
    )


def test_built_from_a_configuration_saved_and_loaded(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    config = Config(
        root=str(tmp_path), model={"control": "t2i-adapter"}, train={**MASK_ALONE, "trained_unet": "none"}
    )
    model = build_model(config, load_base(str(tmp_path / "base")))
    assert isinstance(model, AdapterDiffusion) and not any(p.requires_grad for p in model.unet.parameters())
    write_model(str(tmp_path / "model"), tmp_path / "base", model, {})
    loaded = load_model(str(tmp_path / "model"))
    assert loaded.info["control"] == "t2i-adapter" and isinstance(loaded.control, T2IAdapter)
    torch.testing.assert_close(loaded.control.state_dict(), model.adapter.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("control", ["dhi", "plain"])
def test_other_controls_are_controlnets(tmp_path: Path, control: str) -> None:
    write_base(tmp_path / "base")
    config = Config(root=str(tmp_path), model={"control": control}, train={"trained_unet": "all"})
    model = build_model(config, load_base(str(tmp_path / "base")))
    assert all(p.requires_grad for p in model.parameters())
    write_model(str(tmp_path / "model"), tmp_path / "base", model, {})
    assert load_model(str(tmp_path / "model")).info["control"] == control
