"""What --dry-run says: counted against PyTorch's own counter and profiler, and as a person runs it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.estimate import report
from siamdiff.estimate.architecture import Architecture, architecture
from siamdiff.estimate.counting import Count, train_step
from siamdiff.estimate.devices import DEVICES, device_named
from siamdiff.estimate.memory import CONTEXT, training_memory
from siamdiff.estimate.meter import Meter
from siamdiff.model import tiny
from siamdiff.model.build import build_model
from siamdiff.model.diffusion import SD15_SCHEDULE
from siamdiff.model.siamese import StepInputs
from siamdiff.sections import Train
from siamdiff.training.losses import LossWeights
from tests.jobs import REPOSITORY

SIDE, BATCH = 64, 2
MASK_ALONE: dict[str, Any] = {"image_branch": False, "online_augmentation": False, "consistency_weight": 0.0}


def configured(**sections: dict[str, Any]) -> Config:
    return Config.model_validate({"data": {"resolution": SIDE}} | sections).resolve()


def real_tiny(config: Config) -> Architecture:
    """The tiny base's networks with weights, untrained, on the CPU."""
    torch.manual_seed(0)
    meta = architecture(config)
    base = meta.base.__class__(
        **vars(meta.base)
        | {
            "unet": tiny.make_unet(SIDE // 8),
            "vae": tiny.make_vae(SIDE),
            "text_encoder": tiny.make_text_encoder(),
            "scheduler": DDIMScheduler(**SD15_SCHEDULE),
        }
    )
    return Architecture(base, build_model(config, base), "")


def inputs_on_cpu() -> StepInputs:
    latent = (BATCH, 4, SIDE // 8, SIDE // 8)
    return StepInputs(
        z_0=torch.randn(latent),
        noise=torch.randn(latent),
        t=torch.tensor([100, 150]),
        text=torch.randn(BATCH, 77, tiny.TEXT_WIDTH),
        image=torch.rand(BATCH, 3, SIDE, SIDE),
        mask=torch.ones(BATCH, 3, SIDE, SIDE),
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_a_real_step_allocates(checkpointing: bool):
    """The peak that PyTorch's profiler sees of the allocator, over what was there before, is the one reckoned."""
    config = configured()
    weights = LossWeights(w_i=0.5, augment=True)
    reckoned = train_step(architecture(config), weights, SIDE, BATCH, checkpointing=checkpointing)
    model = real_tiny(config).model.train()
    if checkpointing:
        model.unet.enable_gradient_checkpointing()
        model.control.enable_gradient_checkpointing()
    inputs = inputs_on_cpu()
    model(inputs, weights)[0].backward()  # kernels prepare themselves once
    for p in model.parameters():
        p.grad = None
    for p in model.parameters():
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(inputs, weights)[0].backward()
    assert allocated_peak(profiler) == pytest.approx(reckoned.peak, rel=0.1)


def allocated_peak(profiler: profile) -> int:
    """Largest sum of bytes allocated since the profiler was started."""
    assert profiler.profiler and profiler.profiler.kineto_results
    events = [
        event
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
    ]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def test_arithmetic_is_what_pytorch_counts_on_real_tensors(papers: Count):
    model = real_tiny(configured()).model
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # its products one by one
        model(inputs_on_cpu(), LossWeights(w_i=0.5, augment=True))[0].backward()
    assert papers.flops == counter.get_total_flops()


def test_a_meter_forgets_what_is_freed():
    x = torch.ones(1000)
    with Meter([x]) as meter:
        y = x + 1
        z = y * 2
        del y
        w = z.view(10, 100)
    assert (meter.live, meter.peak, w.shape) == (4000, 8000, (10, 100))


@pytest.mark.parametrize(
    ("train", "fewer"),
    [
        (MASK_ALONE, True),
        ({"trained_unet": "none"}, True),
        ({"trained_unet": "all"}, False),
    ],
)
def test_switches_change_the_arithmetic(train: dict[str, Any], fewer: bool, papers: Count):
    config = configured(train=train | {"batch_size": BATCH})
    changed = report.train_counts(config, architecture(config))[1]
    assert changed.flops < papers.flops if fewer else changed.flops > papers.flops


@pytest.fixture(scope="module")
def papers() -> Count:
    """One augmented pass of the method as the paper has it."""
    return train_step(architecture(configured()), LossWeights(w_i=0.5, augment=True), SIDE, BATCH)


@pytest.mark.parametrize("control", ["dhi", "plain", "t2i-adapter"])
def test_every_control_network_is_reckoned(control: str):
    config = configured(model={"control": control}, train=MASK_ALONE | {"batch_size": BATCH})
    text = report.dry_run(config, ("train", "generate"))
    assert re.search(r"control +[1-9][\d,]+ +[1-9]", text)


def test_an_experiment_of_copies_is_reckoned_without_training():
    config = configured(generate={"method": "copy-paste", "fold_masks": ["real"]})
    text = report.dry_run(config, ("train", "generate"))
    assert "copies of the real pairs" in text and "training" not in text


def test_a_scheduler_of_second_order_asks_the_networks_twice_in_all_steps_but_one():
    taken = {}
    for scheduler, steps in (("heun", 400), ("ddim", 799), ("ddim", 400)):
        config = configured(generate={"scheduler": scheduler, "steps": steps})
        text = report.dry_run(config, ("generate",))
        assert ("(799 passes)" in text) == (scheduler == "heun")
        taken[scheduler, steps] = re.findall(r"[\d,.]+ TFLOP", text)
    assert taken["heun", 400] == taken["ddim", 799] != taken["ddim", 400]


def test_half_precision_halves_activations(papers: Count):
    config = configured(train={"precision": "fp16", "batch_size": BATCH})
    half = report.train_counts(config, architecture(config))[1]
    assert (half.flops, half.peak) == (papers.flops, pytest.approx(papers.peak / 2, rel=0.1))


def test_more_workers_share_what_zero_partitions():
    sizes = {"trained": 800, "frozen": 400, "encoders": 100, "activations": 0}
    one, four = (training_memory(Train(workers=n, batch_size=4), **sizes) for n in (1, 4))
    assert (four.optimizer, four.master, four.gradients) == (1600, 800, 800)
    assert (one.optimizer, one.weights) == (6400, 4800)
    assert four.weights == one.weights
    spread = training_memory(Train(workers=4, batch_size=4, zero_stage=3), **sizes)
    assert spread.weights == one.weights // 4
    plain = training_memory(Train(engine="torch"), **sizes)
    assert training_memory(Train(precision="fp16"), **sizes).gradients == 1600
    cast = training_memory(Train(precision="bf16", engine="torch"), **sizes)
    assert (
        cast.weights == plain.weights + 2 * 800 - 2 * 400
    )  # casts of what learns; what is frozen is held in 16 bit
    assert plain.peak == 4 * 1200 + 8 * 800 + 4 * 800 + 4 * 100 + CONTEXT


def test_averages_are_shared_and_an_offloaded_optimizer_leaves_the_gpu():
    sizes = {"trained": 800, "frozen": 400, "encoders": 100, "activations": 0}
    plain = training_memory(Train(workers=4, batch_size=4), **sizes)
    averaged = training_memory(Train(workers=4, batch_size=4, ema_decay=0.99), **sizes)
    assert averaged.peak - plain.peak == averaged.averages == 4 * 200
    offloaded = training_memory(Train(workers=4, batch_size=4, offload_optimizer=True), **sizes)
    assert (offloaded.optimizer, offloaded.master, offloaded.update) == (0, 0, 0)


def test_augmentation_begins_at_its_step():
    assert report.steps_before(Train(steps=3000)) == 1001  # k = 0 ... 1000; Eq. 13 wants k > K_tau
    assert report.steps_before(Train(steps=10, augment_after=0)) == 0
    assert report.steps_before(Train(steps=10, augment_after=1)) == 10
    assert report.steps_before(Train(steps=10, online_augmentation=False)) == 10


def test_a_device_is_found_whatever_its_spelling():
    assert device_named("rtx4090") is DEVICES["RTX 4090"]
    assert device_named("a100-80") is DEVICES["A100-80"]
    with pytest.raises(UserError, match=r"'rtx 409' is none of RTX 3090.*did you mean 'RTX 4090'"):
        device_named("rtx 409")


def test_a_local_base_is_reckoned_by_its_own_configuration(tmp_path: Path):
    for part, network in (("unet", tiny.make_unet(8)), ("vae", tiny.make_vae(64))):
        (tmp_path / part).mkdir()
        network.save_config(tmp_path / part)
    tiny.make_text_encoder().config.save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "siamdiff.json").write_text('{"hint_channels": [4, 8, 16, 32, 64]}')
    parameters = architecture(configured(model={"base": str(tmp_path)})).parameters()
    assert parameters == architecture(configured()).parameters()
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(UserError, match=r"lacks vae/config\.json"):
        architecture(configured(model={"base": str(tmp_path)}))


@pytest.mark.parametrize("content", ["", "[1]", '{"block_out_channels": "wide"}'])
def test_a_base_whose_description_is_damaged_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    for part in ("vae", "unet", "text_encoder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json .*fetch the folder again"):
        architecture(configured(model={"base": str(tmp_path)}))


def test_a_base_that_is_not_here_is_said_to_be_taken_for_sd15():
    found = architecture(configured(model={"base": "somebody/some-model"}))
    assert "somebody/some-model is taken to be" in found.origin
    assert sum(trained for _, trained in found.parameters().values()) == 874_264_516


def test_too_little_memory_is_a_warning_with_what_to_lower():
    config = configured(
        data={"resolution": 1024},
        train={"batch_size": 48, "activation_checkpointing": False} | MASK_ALONE,
        cluster={"device": "RTX 3090", "price": 1.0},
    )
    text = report.dry_run(config, ("train",))
    assert re.search(
        r"WARNING: .* do not fit into the 24 GB .*activation_checkpointing true.*micro_batch below 48", text
    )
    hours = re.search(r"hours of training: ([\d.]+) on 1 x RTX 3090, assuming that 40%", text)
    cost = re.search(r"cost: ([\d,.]+) dollars", text)
    assert hours and cost
    assert float(cost[1].replace(",", "")) == pytest.approx(float(hours[1].replace(",", "")), rel=0.01)


def test_activations_are_recomputed_where_memory_asks_for_it():
    config = configured(train=MASK_ALONE | {"batch_size": BATCH})
    networks = architecture(config)
    plain = report.settled(config, networks, None)
    assert plain.train.activation_checkpointing is False
    need = report.training_need(plain, networks).peak
    for memory, expected in ((need / report.USABLE + 1, False), (need / report.USABLE - 1, True)):
        settled = report.settled(config, networks, memory)
        assert settled.train.activation_checkpointing is expected
    assert report.training_need(settled, networks).peak < need
    assert report.settled(plain, networks, 1) is plain  # what is said is not reckoned again


def test_a_dry_run_needs_no_ray_and_writes_nothing(tmp_path: Path):
    program = (
        "import runpy, sys; sys.modules.update(ray=None, deepspeed=None); sys.argv[:] = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    root = tmp_path / "root"
    job = [str(REPOSITORY / "jobs" / "generate.py"), "--dry-run", "--root", str(root)]
    done = subprocess.run([sys.executable, "-c", program, *job], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "trainable parameters" in done.stdout
    assert "hours of" in done.stdout
    assert not root.exists()
