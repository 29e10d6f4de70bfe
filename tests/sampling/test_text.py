"""Keys and values of constant texts: computed once a sampling, and the same."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from siamdiff.sampling import sampler
from siamdiff.sampling.sampler import initial_noise, sample
from siamdiff.sampling.schedulers import ddim_scheduler
from siamdiff.sampling.text import projected_once
from tests.training.reference import tiny_inputs, tiny_model

MODEL = tiny_model(dtype=torch.float32)
INPUTS = tiny_inputs([0, 0], dtype=torch.float32)
UNCOND = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(1))
X_T = torch.stack([initial_noise(seed, (4, 8, 8)) for seed in (0, 1)])
STEPS = 3


def draw(image: torch.Tensor | None = None) -> torch.Tensor:
    networks = MODEL.unet, MODEL.controlnet
    return sample(
        *networks,
        ddim_scheduler(),
        INPUTS.mask,
        INPUTS.text,
        UNCOND,
        X_T,
        STEPS,
        9.0,
        image,
        image_weight=0.5,
    )


def projections() -> Iterator[nn.Linear]:
    for network in (MODEL.unet, MODEL.controlnet):
        for module in network.modules():
            if isinstance(module, Attention) and module.is_cross_attention:
                yield from (module.to_k, module.to_v)


@pytest.mark.parametrize("image", [None, INPUTS.image], ids=["mask", "mask and image"])
def test_a_text_is_projected_once_for_all_steps(
    image: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, seen = set(projections()), []
    computed = nn.Linear.forward

    def counting(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if self in watched:
            seen.append(self)
        return computed(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counting)
    drawn = draw(image)
    assert watched and len(seen) == len(watched)
    monkeypatch.setattr(sampler, "projected_once", lambda *_: nullcontext())
    assert torch.equal(draw(image), drawn)
    assert len(seen) == (1 + STEPS) * len(watched)


def test_another_text_is_projected_again_and_networks_are_left_as_they_were() -> None:
    first = next(projections())
    texts = torch.randn(2, 1, 5, 12, generator=torch.Generator().manual_seed(2))
    one, other = texts[0], texts[1]
    with projected_once(MODEL.unet):
        assert first(one) is first(one)
        assert torch.equal(first(other), nn.functional.linear(other, first.weight, first.bias))
        assert not torch.equal(first(one), first(other))
    assert "forward" not in vars(first)
    assert first(one) is not first(one)
