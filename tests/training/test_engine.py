"""The plain engine in each precision, and what makes it faster."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from siamdiff.errors import UserError
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.training.engine import DivergedError, TorchEngine
from siamdiff.training.losses import weights_at
from siamdiff.training.optimizer import learning_rate_at
from siamdiff.training.precision import check_precision
from siamdiff.training.snapshot import copied
from siamdiff.training.speed import compile_blocks, hold_frozen, use_channels_last
from tests.training import small as small_model
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


def small(**given) -> TorchEngine:
    return TorchEngine(
        small_model.Small(), learning_rate=1e-2, weight_decay=0.01, **{"accumulation": 1} | given
    )


def state(trained: TorchEngine) -> dict:
    return copied({"weights": trained.full_weights(), "optimizer": trained.optimizer.state_dict()})


def test_the_norm_is_that_of_the_whole_batch_however_many_passes_it_takes() -> None:
    one, two = small(), small(accumulation=2)
    assert math.isnan(one.gradient_norm)
    rows = small_model.train(one)
    torch.testing.assert_close(small_model.train(two, passes=2), rows)
    loss, _ = one.forward(small_model.batch(9), 3.0)
    one.backward(loss)
    gradient = torch.cat([p.grad.flatten() for p in one.model.parameters() if p.grad is not None])
    one.step()
    assert one.gradient_norm == pytest.approx(gradient.norm().item())


def test_clipping_scales_a_larger_gradient_down_and_leaves_a_smaller_one() -> None:
    free, far, near = small(), small(clip_norm=1e3), small(clip_norm=0.1)
    rows = small_model.train(free)
    assert rows[:, 1].min() > 0.1
    assert torch.equal(small_model.train(far), rows)
    assert torch.equal(state(far)["weights"]["scale"], state(free)["weights"]["scale"])

    model = small_model.Small()
    plain = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.01)
    for k in range(small_model.STEPS):
        plain.param_groups[0]["lr"] = learning_rate_at(k, small_model.SCHEDULE)
        plain.zero_grad()
        model(small_model.batch(k), 3.0)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        plain.step()
    small_model.train(near)
    expected = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    torch.testing.assert_close(near.full_weights(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(math.nan, "norm nan"), (math.inf, "not finite"), (3e6, "above train.gradient_limit 1000:")],
)
def test_a_gradient_that_is_not_finite_or_too_large_stops_the_run_before_the_step(weight, message) -> None:
    trained = small(gradient_limit=1e3, ema_decay=0.9, clip_norm=0.5)
    small_model.train(trained)
    before, averages = state(trained), trained.full_weights(averaged=True)
    loss, _ = trained.forward(small_model.batch(9), weight)
    trained.backward(loss)
    with pytest.raises(DivergedError, match=message):
        trained.step()
    torch.testing.assert_close(state(trained), before, rtol=0, atol=0)
    torch.testing.assert_close(trained.full_weights(averaged=True), averages, rtol=0, atol=0)
    assert not trained.gradient_norm <= 1e3  # the norm that was refused


def test_fp16_that_overflows_at_every_scale_has_diverged() -> None:
    trained = small(precision="fp16")
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with pytest.raises(DivergedError, match="overflow fp16"):
        for _ in range(9):
            loss, _ = trained.forward(small_model.batch(9), math.inf)
            trained.backward(loss)
            trained.step()
    assert all(weight.isfinite().all() for weight in trained.full_weights().values())


def test_a_run_goes_on_bit_for_bit_from_a_snapshot_written_while_it_trained(tmp_path: Path) -> None:
    given = {"accumulation": 2, "ema_decay": 0.9, "clip_norm": 0.3}
    whole = small(**given)
    rows = small_model.train(whole, passes=2)
    cut = small(**given)
    small_model.train(cut, passes=2, ks=range(small_model.CUT))
    write = cut.snapshot(tmp_path)
    small_model.train(cut, passes=2, ks=range(small_model.CUT, small_model.STEPS))
    write()
    resumed = small(**given)
    resumed.load(tmp_path, 1)
    after = small_model.train(resumed, passes=2, ks=range(small_model.CUT, small_model.STEPS))
    assert torch.equal(after, rows[small_model.CUT :])
    torch.testing.assert_close(state(resumed), state(whole), rtol=0, atol=0)
    averages = whole.full_weights(averaged=True)
    torch.testing.assert_close(resumed.full_weights(averaged=True), averages, rtol=0, atol=0)
    assert not torch.equal(averages["scale"], whole.full_weights()["scale"])


def test_a_step_draws_nothing_from_the_global_random_state() -> None:
    trained = engine(tiny_model(dtype=torch.float32))
    inputs = tiny_inputs(TIMESTEPS[0], dtype=torch.float32)
    before = torch.get_rng_state()
    loss, _ = trained.forward(inputs, weights_at(15, 30))
    trained.backward(loss)
    trained.step()
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_weights_in_half_precision_change_no_bit() -> None:
    held = tiny_model(dtype=torch.float32)
    frozen = [p for p in held.parameters() if not p.requires_grad]
    hold_frozen(held.unet, torch.bfloat16)
    assert sum(p.dtype == torch.bfloat16 for p in frozen) > len(frozen) / 2
    assert all(p.dtype == torch.float32 for p in held.parameters() if p.requires_grad)
    one, other = engine(held, "bf16"), engine(tiny_model(dtype=torch.float32), "bf16")
    assert torch.equal(steps(one), steps(other))
    torch.testing.assert_close(one.full_weights(), other.full_weights(), rtol=0, atol=0)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without its code generation: the same graphs, seconds instead of minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()


def step(trained: TorchEngine, t: list[int], k: int = 20) -> torch.Tensor:
    loss, _ = trained.forward(tiny_inputs(t, dtype=torch.float32), weights_at(k, 30))
    trained.backward(loss)
    trained.step()
    return loss.detach()


def products(trained: TorchEngine, t: list[int]) -> int:
    """Matrix products and backward passes of convolutions that a step makes."""
    with torch.profiler.profile() as profile:
        step(trained, t)
    names = ("aten::mm", "aten::addmm", "aten::bmm", "aten::convolution_backward")
    return sum(event.count for event in profile.key_averages() if event.key in names)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("traced")
def test_compiled_blocks_compute_no_gradient_that_is_thrown_away_and_settle_after_a_few_steps() -> None:
    plain, compiled = (engine(tiny_model(dtype=torch.float32)) for _ in range(2))
    assert isinstance(compiled.model, SiameseDiffusion)
    compile_blocks(compiled.model.unet, compiled.model.control)
    batches = [[1, 900, 900], [1, 2, 900], [1, 2, 3], [900, 900, 900]]  # one to three are augmented
    for t in batches:
        torch.testing.assert_close(step(compiled, t), step(plain, t), rtol=1e-4, atol=1e-5)
    with torch.compiler.set_stance("fail_on_recompile"):
        for t in reversed(batches):
            step(compiled, t)
            step(plain, t)
        assert products(compiled, batches[0]) <= products(plain, batches[0])
    trained = [p for p in compiled.model.parameters() if p.requires_grad]
    assert len(trained) == len([p for p in plain.model.parameters() if p.requires_grad])
