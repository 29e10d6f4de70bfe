"""Part of run.py: a training step against the same losses written straightforwardly, and against a plain ControlNet's.

"siamdiff" is what the loop does (FrozenEncoders, SiameseDiffusion, TorchEngine) with latents and text states known, as
they are from the second epoch on, or from a cache; "checkpointing" is the same with activations recomputed.
"straightforward" (naive.py) makes every pass that the formulas write, VAE and text encoder among them, recomputing
activations, as the released code is configured. "controlnet" (plain.py) is diffusers' example. All of them share the
networks' weights; the learning rate is 0, so that every step finds the weights that the first one found, and the losses
of the first three must agree.

On a GPU the step is measured once more with each of the things that are there for GPUs, one added to the other.
"""

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel

from benchmarks.counting import PHASES, N, count, largest_batch, on, recomputing
from benchmarks.naive import NaiveStep
from benchmarks.place import Measured, Place, peak_of, quotient, take_turns, timed
from benchmarks.plain import PlainControlNet, unet_frozen
from benchmarks.reduced import make_base, make_batch, make_model, tokens_of
from siamdiff.commandline import load
from siamdiff.config import Config
from siamdiff.model.base import Base
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.sections import Train
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.engine import TorchEngine, adamw
from siamdiff.training.losses import weights_at
from siamdiff.training.speed import compile_blocks, hold_frozen, use_channels_last

AIMS = {
    "time / operations": 0.95,
    "memory": 0.65,
    "controlnet": 2.0,
    "samples/s on a GPU": 100,
    "share": 0.45,
}
WORKSTATION = Path(__file__).parents[1] / "jobs" / "configs" / "workstation.yaml"
WORKSTATION_GB = 24
MEMORY = 24e9  # bytes for which the largest batch is counted


@dataclass(frozen=True)
class Size:
    """What is trained."""

    divisor: int  # of Stable Diffusion 1.5's widths
    resolution: int  # pixels
    batch: int  # samples


class Networks:
    """Untrained networks on a device, and the steps that are compared on them.

    Args:
        place: where they run.
        size: theirs, and of the batch.
    """

    def __init__(self, place: Place, size: Size) -> None:
        torch.manual_seed(0)
        self.place, self.size = place, size
        with torch.device(place.device):
            self.base: Base = make_base(size.divisor)
            self.model: SiameseDiffusion = make_model(self.base)
            self.plain = ControlNetModel.from_unet(self.base.unet).train()
        self.model.alphas_cumprod = self.model.alphas_cumprod.to(place.device)
        self.engine = TorchEngine.of(self.model, _config(place, size.batch), 1)
        self.engine.set_learning_rate(0.0)
        self.encoders = FrozenEncoders(self.base, place.device)
        self.batch = make_batch(size.batch, size.resolution)
        self.tokens = tokens_of(self.base, self.batch.prompts)
        self.plain_optimizer = adamw(list(self.plain.parameters()), 0.0, 0.0)

    def siamdiff(self, k: int, *, checkpointing: bool = False) -> float:
        """The loop's step after `k` of N; returns the loss."""
        with recomputing(self.model, checkpointing):
            loss, _ = self.engine.forward(self.encoders.inputs(self.batch), weights_at(k, N))
            self.engine.backward(loss)
            self.engine.step()
        return loss.item()

    def straightforward(self, k: int) -> float:
        """Every pass in full, recomputing activations; returns the loss."""
        device = self.place.device
        with recomputing(self.model, True, hints=False):
            with self._autocast():
                naive = NaiveStep(self.base, self.model, N)
                loss = naive.loss(on(self.batch, device), self.tokens.to(device), k)
            loss.backward()
        self.engine.optimizer.step()
        self.engine.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def controlnet(self) -> float:
        """A plain ControlNet's step; returns the loss."""
        device = self.place.device
        with unet_frozen(self.base.unet):
            with self._autocast():
                step = PlainControlNet(self.base, self.plain, self.model.alphas_cumprod)
                loss = step.loss(on(self.batch, device), self.tokens.to(device))
            loss.backward()
        self.plain_optimizer.step()
        self.plain_optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _autocast(self) -> torch.autocast:
        place = self.place
        return torch.autocast(place.device.type, place.dtype, enabled=place.precision != "fp32")


def _config(place: Place, batch: int) -> Config:
    train = {"batch_size": batch, "engine": "torch", "precision": place.precision}
    return Config.model_validate({"train": train})


def measure(place: Place, size: Size, rounds: int, rate: float, *, stages: bool) -> dict[str, Any]:
    """Time, memory and operations of each step, before and after N / 3.

    Args:
        place: where.
        size: of networks and batch.
        rounds: measured steps of each.
        rate: operations a second of a large matrix product there.
        stages: whether to measure what is there for GPUs, too.
    """
    networks = Networks(place, size)
    rows = []
    for phase, k in PHASES.items():
        losses: dict[str, float] = {}

        def kept(
            name: str, work: Callable[[], float], losses: dict[str, float] = losses
        ) -> Callable[[], None]:
            return lambda: losses.__setitem__(name, work())

        works = {
            "siamdiff": kept("siamdiff", lambda k=k: networks.siamdiff(k)),
            "checkpointing": kept("checkpointing", lambda k=k: networks.siamdiff(k, checkpointing=True)),
            "straightforward": kept("straightforward", lambda k=k: networks.straightforward(k)),
            "controlnet": kept("controlnet", networks.controlnet),
        }
        measured = take_turns(place, works, rounds)
        _agree(losses, place)
        rows.append({"phase": phase, "losses": losses} | _compared(measured, size, k, rate))
    del networks.plain, networks.plain_optimizer
    staged = _staged(networks, rounds, rate) if stages else []
    return {"size": vars(size), "rows": rows, "stages": staged, "aims": AIMS}


def _agree(losses: dict[str, float], place: Place) -> None:
    """Whether our step has the straightforward one's loss.

    Raises:
        SystemExit: it has another.
    """
    tolerance = 1e-4 if place.precision == "fp32" else 2e-2
    for name in ("siamdiff", "checkpointing"):
        if not math.isclose(losses[name], losses["straightforward"], rel_tol=tolerance):
            raise SystemExit(f"the steps disagree on the loss: {losses}")


def _compared(measured: dict[str, Measured], size: Size, k: int, rate: float) -> dict[str, Any]:
    flops = {
        name: count(
            "siamdiff" if name == "checkpointing" else name,
            *(size.divisor, size.resolution, size.batch, k),
            checkpointing=name in ("checkpointing", "straightforward"),
        ).flops
        for name in measured
    }
    ours, theirs = measured["siamdiff"], measured["straightforward"]
    time, operations = quotient(ours, theirs), flops["siamdiff"] / flops["straightforward"]
    largest = largest_batch(size.divisor, size.resolution, k, MEMORY)
    return {
        "steps": {name: _row(measured[name], flops[name], size, rate) for name in measured},
        "time": time,
        "operations": operations,
        "time / operations": time.median / operations,
        "memory": largest.ours / largest.theirs,
        "largest": largest,
        "controlnet": quotient(ours, measured["controlnet"]),
    }


def _row(measured: Measured, flops: int, size: Size, rate: float) -> dict[str, Any]:
    spread = measured.spread
    return {
        "seconds": spread,
        "samples_per_second": size.batch / spread.median,
        "tflop": flops / 1e12,
        "tflops": flops / 1e12 / spread.median,
        "share": flops / spread.median / rate,
        "peak_gb": measured.peak / 1e9,
    }


def _staged(networks: Networks, rounds: int, rate: float) -> list[dict[str, Any]]:
    """The step with what is there for GPUs, one thing added to the other; the last row is all of it."""
    model, place, size = networks.model, networks.place, networks.size
    additions: dict[str, Callable[[], None]] = {
        "plain": lambda: None,
        "+ frozen weights in 16 bit": lambda: hold_frozen(model.unet, place.dtype),
        "+ channels last": lambda: use_channels_last(model.unet, model.control),
        "+ compiled": lambda: compile_blocks(model.unet, model.control),
    }
    rows = []
    for name, add in additions.items():
        add()
        for phase, k in PHASES.items():
            first = timed(place, lambda k=k: networks.siamdiff(k))  # compiles, where something is to be
            measured = take_turns(place, {"step": lambda k=k: networks.siamdiff(k)}, rounds)
            counted = count("siamdiff", size.divisor, size.resolution, size.batch, k, checkpointing=False)
            row = _row(measured["step"], counted.flops, size, rate)
            rows.append({"stage": name, "phase": phase, "first_seconds": first} | row)
    return rows


def workstation(place: Place, size: Size) -> dict[str, Any]:
    """One whole step of workstation.yaml after N / 3, in as much memory as it promises to take.

    Args:
        place: on a CPU the memory is told, not bounded.
        size: of networks and images; the batch is the configuration's.
    """
    config, _ = load(["--config", str(WORKSTATION)], WORKSTATION, "")
    gc.collect()  # networks of before hold themselves in circles
    with _capped(place):
        return _workstation(place, size, config.train)


@contextmanager
def _capped(place: Place) -> Iterator[None]:
    """A GPU that has as much memory as a workstation's; a CPU as it is."""
    if not place.on_gpu:
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(place.device)
    total = torch.cuda.get_device_properties(place.device).total_memory
    torch.cuda.set_per_process_memory_fraction(WORKSTATION_GB * 1e9 / total, place.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, place.device)


def _workstation(place: Place, size: Size, train: Train) -> dict[str, Any]:
    micro = train.micro_batch or train.batch_size
    networks = Networks(place, Size(size.divisor, size.resolution, micro))
    del networks.plain, networks.plain_optimizer
    passes = train.batch_size // micro
    networks.engine.accumulation = passes
    hold_frozen(networks.model.unet, place.dtype)
    recompute = train.activation_checkpointing is True

    def step() -> None:
        for _ in range(passes):
            networks.siamdiff(PHASES["after N/3"], checkpointing=recompute)

    held = peak_of(place, step)
    seconds = timed(place, step)
    reserved = torch.cuda.max_memory_reserved(place.device) if place.on_gpu else held
    return {
        "cap_gb": WORKSTATION_GB,
        "batch": train.batch_size,
        "seconds": seconds,
        "peak_gb": held / 1e9,
        "reserved_gb": reserved / 1e9,
    }


def rounding(place: Place) -> dict[str, Any]:
    """How far the device in its precision is from the CPU in fp32, at a tiny size: losses and the gradient's norm."""
    size = Size(16, 64, 5)
    steps = {}
    for name, where in (("there", place), ("exact", Place(torch.device("cpu"), "fp32"))):
        with torch.device("cpu"):
            networks = Networks(Place(torch.device("cpu"), where.precision), size)
        networks = _moved(networks, where)
        steps[name] = [(networks.siamdiff(k), networks.engine.gradient_norm) for k in PHASES.values()]
    pairs = zip(steps["there"], steps["exact"], strict=True)
    errors = [[abs(a / b - 1) for a, b in zip(*pair, strict=True)] for pair in pairs]
    return {
        "phases": list(PHASES),
        "loss": [loss for loss, _ in errors],
        "gradient_norm": [norm for _, norm in errors],
    }


def _moved(networks: Networks, place: Place) -> Networks:
    """Networks made on the CPU, where random numbers are the same everywhere, on another device."""
    networks.place = place
    networks.model.to(place.device)
    networks.model.alphas_cumprod = networks.model.alphas_cumprod.to(place.device)
    networks.engine = TorchEngine.of(networks.model, _config(place, networks.size.batch), 1)
    networks.engine.set_learning_rate(0.0)
    networks.encoders = FrozenEncoders(networks.base, place.device)
    return networks
