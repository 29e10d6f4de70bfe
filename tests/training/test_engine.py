"""The plain engine in each precision, and what makes it faster."""

from pathlib import Path

import pytest
import torch
from torch import nn

from siamdiff.errors import UserError
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.training.engine import TorchEngine, check_precision
from siamdiff.training.losses import weights_at
from siamdiff.training.speed import compile_blocks, use_channels_last
from tests.training.reference import tiny_inputs, tiny_model

TIMESTEPS = [[150, 700], [150, 300], [10, 20], [300, 400], [1, 2]]


def engine(model: SiameseDiffusion, precision="fp32") -> TorchEngine:
    return TorchEngine(model, learning_rate=1e-3, weight_decay=0.01, accumulation=1, precision=precision)


def steps(trained: TorchEngine, first: int = 0, last: int = 5) -> torch.Tensor:
    """The losses (steps, terms) of steps with every term."""
    losses = []
    for k in range(first, last):
        inputs = tiny_inputs(TIMESTEPS[k], seed=k, dtype=torch.float32)
        loss, terms = trained.forward(inputs, weights_at(15 + k, 30))
        assert {term.dtype for term in terms.values()} == {torch.float32}
        trained.backward(loss)
        trained.step()
        losses.append(torch.stack(list(terms.values())))
    return torch.stack(losses)


# What fp16 does on a GPU can be held on a CPU up to its kernels: the same autocast, the same scaler.
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_tracks_fp32_and_resumes_exactly(precision, tmp_path: Path) -> None:
    exact = steps(engine(tiny_model(dtype=torch.float32)))
    whole = engine(tiny_model(dtype=torch.float32), precision)
    losses = steps(whole)
    torch.testing.assert_close(losses, exact, rtol=2e-3, atol=2e-4)
    assert not torch.equal(losses, exact)
    assert {weight.dtype for weight in whole.full_weights().values()} == {torch.float32}

    cut = engine(tiny_model(dtype=torch.float32), precision)
    steps(cut, last=3)
    cut.snapshot(tmp_path)()
    resumed = engine(tiny_model(dtype=torch.float32), precision)
    resumed.load(tmp_path, 1)
    assert torch.equal(steps(resumed, first=3), losses[3:])
    torch.testing.assert_close(resumed.full_weights(), whole.full_weights(), rtol=0, atol=0)
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()


def test_a_step_that_overflows_fp16_changes_only_the_scale() -> None:
    trained = engine(tiny_model(dtype=torch.float32), "fp16")
    before = {name: weight.clone() for name, weight in trained.full_weights().items()}
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    loss, _ = trained.forward(tiny_inputs([150, 700], dtype=torch.float32), weights_at(15, 30))
    trained.backward(loss)
    trained.step()
    torch.testing.assert_close(trained.full_weights(), before, rtol=0, atol=0)
    assert trained.scaler.get_scale() == 2.0**39


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="needs a GPU"):
        check_precision("fp16", torch.device("cpu"))
    check_precision("bf16", torch.device("cpu"))


def test_channels_last_reaches_every_convolution() -> None:
    model = tiny_model(dtype=torch.float32)
    names = list(model.state_dict())
    use_channels_last(model.unet, model.control)
    layouts = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _module, _args, out: layouts.append(
                    out.is_contiguous(memory_format=torch.channels_last)
                )
            )
    losses = steps(engine(model))
    assert layouts and all(layouts)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(losses, steps(engine(tiny_model(dtype=torch.float32))), rtol=1e-5, atol=1e-6)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_compiled_blocks_train_as_they_are() -> None:
    model = tiny_model(dtype=torch.float32)
    names = list(model.state_dict())
    compile_blocks(model.unet, model.control)
    losses = steps(engine(model), last=2)
    assert list(model.state_dict()) == names
    exact = steps(engine(tiny_model(dtype=torch.float32)), last=2)
    torch.testing.assert_close(losses, exact, rtol=1e-4, atol=1e-5)
