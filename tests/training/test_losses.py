"""The objective: weights, terms, and gradients equal to those of the deep-copy implementation."""

import dataclasses

import pytest
import torch

from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Batch, Stream, StreamDataset, load_batches, split
from siamdiff.model.siamese import SiameseDiffusion, StepInputs
from siamdiff.training.losses import (
    LossWeights,
    attach_gradient,
    augmentation_weight,
    augmented_samples,
    image_loss,
    mix,
    weights_at,
)
from tests.sets import write_phantoms
from tests.training.reference import naive_loss, tiny_inputs, tiny_model

N = 30


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_phantoms(str(tmp_path_factory.mktemp("phantoms")))


def gradients(model: SiameseDiffusion) -> dict[str, torch.Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize(
    ("k", "t"),
    [(0, [150, 700, 3]), (10, [150, 700, 3]), (11, [200, 201, 3]), (29, [300, 700, 999])],
    ids=["first", "last before N/3", "augmented", "none to augment"],
)
def test_gradients_equal_the_deep_copys(k: int, t: list[int], checkpointing: bool) -> None:
    inputs, ours, theirs = tiny_inputs(t), tiny_model(), tiny_model()
    if checkpointing:
        ours.unet.enable_gradient_checkpointing()
        ours.controlnet.enable_gradient_checkpointing()
    loss, terms = ours(inputs, weights_at(k, N, w_c=1.5))
    loss.backward()
    expected = naive_loss(theirs, inputs, k, N, w_c=1.5)
    expected.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms["L"], expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-9, atol=1e-12)
    assert all(p.grad is not None for p in ours.controlnet.parameters())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("trained_unet", ["none", "all"])
def test_gradients_equal_the_deep_copys_whatever_of_the_unet_learns(
    trained_unet, checkpointing: bool
) -> None:
    inputs = tiny_inputs([150, 700, 3])
    ours, theirs = tiny_model(trained_unet=trained_unet), tiny_model(trained_unet=trained_unet)
    if checkpointing:
        ours.unet.enable_gradient_checkpointing()
        ours.controlnet.enable_gradient_checkpointing()
    ours(inputs, weights_at(20, N))[0].backward()
    naive_loss(theirs, inputs, 20, N).backward()
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-9, atol=1e-12)
    learns = {name: p.grad is not None for name, p in ours.unet.named_parameters()}
    assert set(learns.values()) == {trained_unet == "all"}


SWITCHES = {
    "L_m": {"image_branch": False},
    "L_m L_i": {"w_c": 0.0, "online_augmentation": False},
    "L_m L_i L_c": {"w_c": 0.5, "online_augmentation": False},
    "L_m L_i L_m_prime": {"w_c": 0.0, "w_i": 0.3},
    "L_m L_i L_c L_m_prime": {"w_i": 1.0},
}


@pytest.mark.parametrize("names", SWITCHES)
def test_terms_that_are_off_are_absent_and_leave_no_gradient(names: str) -> None:
    inputs, ours, theirs = tiny_inputs([150, 700]), tiny_model(), tiny_model()
    loss, terms = ours(inputs, weights_at(20, N, **SWITCHES[names]))
    assert list(terms) == [*names.split(), "L"]
    loss.backward()
    naive_loss(theirs, inputs, 20, N, **SWITCHES[names]).backward()
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-9, atol=1e-12)


def test_terms_add_up_and_are_the_same_without_autograd() -> None:
    model, inputs, weights = tiny_model(), tiny_inputs([100, 500]), weights_at(20, N)
    _, terms = model(inputs, weights)
    with torch.no_grad():
        loss, evaluated = model(inputs, weights)
    assert terms["L"] == pytest.approx(sum(terms[name] for name in ("L_m", "L_i", "L_c", "L_m_prime")))
    assert terms["L_m_prime"] > 0
    assert not loss.requires_grad and not any(term.requires_grad for term in terms.values())
    torch.testing.assert_close(evaluated, terms)


def test_the_image_loss_leaves_the_decoder_alone() -> None:
    """With L_m and L_c out of the sum, no decoder weight gets a gradient and every ControlNet weight does."""
    model = tiny_model()
    predictions = model.predict(tiny_inputs([100, 500]), weights_at(10, N))
    predictions.L_i.backward()
    assert all(p.grad is None for p in model.unet.parameters())
    assert all(p.grad is not None for p in model.controlnet.parameters())


def test_frozen_parts_get_no_gradient() -> None:
    model = tiny_model()
    model(tiny_inputs([100, 500]), weights_at(20, N))[0].backward()
    trained = {name for name, p in model.unet.named_parameters() if p.grad is not None}
    assert trained == {
        name
        for name, _ in model.unet.named_parameters()
        if name.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))
    }


def test_weights_follow_the_training_step() -> None:
    assert weights_at(0, N) == LossWeights(w_i=0.0, w_m=1.0, w_c=1.0, augment=False, t_tau=200)
    assert weights_at(15, N, w_c=0.5) == LossWeights(w_i=0.5, w_c=0.5, augment=True)
    assert [weights_at(k, N).augment for k in (9, 10, 11)] == [False, False, True]  # k > N / 3, strictly
    assert all(weights_at(k, n).augment == (3 * k > n) for n in range(1, 200) for k in range(n))


def test_weights_follow_the_switches() -> None:
    assert weights_at(20, N, image_branch=False) == LossWeights(w_i=None, w_c=0.0, augment=None)
    assert weights_at(20, N, w_i=0.25).w_i == 0.25
    assert weights_at(29, N, online_augmentation=False).augment is None
    assert [weights_at(k, N, k_tau=0.5).augment for k in (15, 16)] == [False, True]
    assert weights_at(0, N, k_tau=0.0).augment is True
    assert weights_at(N, N, k_tau=1.0).augment is False
    assert weights_at(20, N, t_tau=999).t_tau == 999


def test_mixing_follows_eq_5_and_stops_the_masks_gradient() -> None:
    c_i, c_m = (torch.ones(2, 1, requires_grad=True) for _ in range(2))
    (c_mix,) = mix((c_i,), (c_m,), w_i=0.25, w_m=2.0)
    c_mix.sum().backward()
    assert c_mix.tolist() == [[2.25], [2.25]]
    assert c_i.grad is not None and c_i.grad.tolist() == [[0.25], [0.25]]
    assert c_m.grad is None


def test_online_augmentation_takes_small_timesteps_or_one_stand_in() -> None:
    assert augmented_samples(torch.tensor([201, 200, 0]), 200).tolist() == [1, 2]
    assert augmented_samples(torch.tensor([201, 999]), 200).tolist() == [0]


def test_half_precision_keeps_the_image_gradient() -> None:
    """Its elements are smaller than fp16's smallest number once they are divided by a batch's number of elements."""
    shape = (16, 4, 64, 64)
    noise, c = torch.zeros(shape), torch.full(shape, 0.01, dtype=torch.float16, requires_grad=True)
    _, L_i = image_loss(lambda controls: controls[0].float(), (c,), noise)
    (2.0**16 * L_i).backward()  # as a loss scaler does
    exact = 2.0**16 * 2 * 0.01 / noise.numel()
    assert c.grad is not None
    torch.testing.assert_close(c.grad.float(), torch.full(shape, exact), rtol=2e-3, atol=0)


def test_attached_gradient_keeps_the_value() -> None:
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    loss = attach_gradient(torch.tensor(7.0), (x,), (torch.tensor([0.5, -1.0]),))
    loss.backward()
    assert loss.item() == 7.0
    assert x.grad is not None and x.grad.tolist() == [0.5, -1.0]


def test_bf16_networks_report_losses_in_fp32() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    loss, terms = model(tiny_inputs([100, 500], dtype=torch.float32), weights_at(20, N))
    loss.backward()
    exact = tiny_model(dtype=torch.float32)(tiny_inputs([100, 500], dtype=torch.float32), weights_at(20, N))[
        1
    ]
    assert all(term.dtype == torch.float32 for term in terms.values())
    torch.testing.assert_close(terms, exact, rtol=0.05, atol=1e-3)


def rows(inputs: StepInputs, batch: Batch) -> StepInputs:
    """The samples of a micro-batch, with its weights."""
    taken = {name: value[batch.positions] for name, value in vars(inputs).items() if value is not None}
    return StepInputs(**taken, weight=batch.weight)


@pytest.mark.parametrize(
    ("timesteps", "world_size", "micro_batch"),
    [
        ([150, 700, 3, 200, 900], 2, None),  # the repeated sample would be augmented
        ([150, 700, 3, 200, 900], 3, 1),  # a whole micro-batch of weight 0
        ([900, 100, 800, 990], 3, None),  # workers without a sample to augment
        ([40 * i % 1000 for i in range(48)], 7, None),
    ],
    ids=["5 on 2", "5 on 3 by 1", "4 on 3", "48 on 7"],
)
def test_workers_that_do_not_divide_the_batch_have_its_gradients_and_terms(
    shard_set: ShardSet, timesteps: list[int], world_size: int, micro_batch: int | None
) -> None:
    inputs, weights = tiny_inputs(timesteps), weights_at(20, N, w_c=1.5)
    stream = Stream(tuple(shard_set.keys("train")), seed=0, batch_size=len(timesteps))
    dataset = StreamDataset(shard_set, stream, (4, 4, 4), num_timesteps=1000, prompt_drop=0.0)
    size, accumulation = split(len(timesteps), world_size, micro_batch)
    passes = world_size * accumulation

    spread, every_term = tiny_model(), []
    for rank in range(world_size):
        for batch in load_batches(
            dataset,
            first_step=0,
            last_step=1,
            rank=rank,
            world_size=world_size,
            micro_batch=size,
            loader_workers=0,
            pin_memory=False,
        ):
            loss, terms = spread(rows(inputs, batch), weights)
            (loss / passes).backward()
            every_term.append(terms)
    assert len(every_term) == passes

    whole = tiny_model()
    loss, terms = whole(inputs, weights)
    loss.backward()
    assert terms["L_m_prime"] > 0
    torch.testing.assert_close(gradients(spread), gradients(whole), rtol=1e-6, atol=1e-9)
    means = {name: torch.stack([terms[name] for terms in every_term]).mean() for name in terms}
    torch.testing.assert_close(means, terms, rtol=1e-6, atol=0)


def test_weights_of_one_change_no_bit() -> None:
    inputs, plain, weighed = tiny_inputs([100, 500, 900]), tiny_model(), tiny_model()
    plain(inputs, weights_at(20, N))[0].backward()
    weighed(dataclasses.replace(inputs, weight=torch.ones(3)), weights_at(20, N))[0].backward()
    torch.testing.assert_close(gradients(weighed), gradients(plain), rtol=0, atol=0)


def test_online_augmentation_leaves_samples_of_weight_0_out() -> None:
    t = torch.tensor([150, 900, 150])
    assert augmented_samples(t, 200, torch.tensor([1.5, 1.5, 0.0])).tolist() == [0]
    assert augmented_samples(t, 200, torch.tensor([0.0, 1.5, 0.0])).tolist() == [0]  # stands in
    assert augmentation_weight(t, 200, torch.tensor([0.0, 1.5, 1.5])).tolist() == [0.0, 0.0, 1.5]
