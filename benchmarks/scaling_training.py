"""Seconds of a training step on a number of GPUs, reckoned: arithmetic, ZeRO's communication, update, reading.

What a step is made of, for each GPU: passes of its micro-batches and the VAE's look at them; what ZeRO sends; AdamW's
way through its part of the state; the copy for a checkpoint. Reading goes on beside all of it, and communication
beside the arithmetic at stage 3 alone, which is what DeepSpeed does where `overlap_comm` is not set.
"""

import math
from dataclasses import dataclass
from typing import Any

from siamdiff.data.stream import split
from siamdiff.estimate.devices import DEVICES, UTILISATION, Device
from siamdiff.estimate.memory import BUCKET, training_memory
from siamdiff.sections import Precision, Train

# Counted by siamdiff.estimate at Stable Diffusion 1.5's size and 384 x 384; tests/test_scaling.py counts them again.
TRAINED, FROZEN, ENCODERS = 874_264_516, 348_712_960, 206_714_343  # parameters
MODULES = (
    596  # of UNet and ControlNet that hold parameters of their own: what stage 3 gathers one after the other
)
ENCODE = 0.61966e12  # FLOP of the VAE's look at one image


@dataclass(frozen=True)
class Passes:
    """Forward and backward pass of a sample, counted with or without activation checkpointing."""

    plain: float  # FLOP without Online-Augmentation
    augmented: float  # FLOP with it
    first: float  # bytes of activations of a micro-batch of one
    further: float  # of each sample more


PASSES = {
    False: Passes(2.65498e12, 4.06862e12, 5.733e9, 2.387e9),
    True: Passes(3.33584e12, 5.05536e12, 3.941e9, 0.499e9),
}
ACTIVE = 0.201  # share of the timesteps that Online-Augmentation takes, once it has begun
AFTER = 2 / 3  # share of the steps in which it does

# Measured: docs/performance.md, 22 and 23 November 2026.
READ_PER_PROCESS = {"png": 175.0, "jpg": 411.0}  # samples/s of 384 x 384
READERS = 2  # train.loader_workers' default
CHECKPOINT_SECONDS = 300.0  # train.checkpoint_minutes' default
WRITE_SECONDS = {"disk": 2.7, "S3": 7.7}  # for a GB of checkpoint

# Assumptions: no GPU and no network of several machines was to be had.
LINK_SHARE = 0.8  # of a link's bandwidth that large messages reach
LATENCY = 10e-6  # seconds of a collective for each doubling of the GPUs
TO_HOST = 25e9  # bytes/s from a GPU into page-locked memory, PCIe 4.0 x16
UPDATE_BYTES = (
    32  # of a trained parameter: AdamW reads 4 fp32 numbers and writes 3, the norm reads the gradient once
)
MOMENTS_KEPT = 14_500  # images whose moments a training process keeps without a cache (docs/cache.md)


@dataclass(frozen=True)
class Node:
    """A machine with several GPUs, by the makers' data sheets; bytes/s are those of one direction."""

    device: Device
    gpus: int
    link: float  # between two GPUs of the machine
    network: float  # of the whole machine
    memory: float  # bytes/s of a GPU's own memory
    price: float  # dollars a GPU hour: an example, not an offer


NODES = {
    name: Node(DEVICES[name], *rest)
    for name, rest in {
        "H100": (8, 450e9, 400e9, 3.35e12, 2.5),  # NVLink 4; 8 x 400 Gb/s, as a DGX H100
        "H200": (8, 450e9, 400e9, 4.8e12, 3.0),
        "A100-80": (8, 300e9, 200e9, 2.039e12, 1.5),  # NVLink 3; 8 x 200 Gb/s, as a DGX A100
        "RTX 4090": (8, 31.5e9, 3.125e9, 1.008e12, 0.5),  # PCIe 4.0 x16; 25 Gb/s Ethernet
    }.items()
}


@dataclass(frozen=True)
class Setting:
    """A training on a number of GPUs."""

    node: Node
    gpus: int
    stage: int
    batch: int  # over all GPUs
    precision: Precision = "bf16"
    share: float | None = (
        None  # of the GPU's peak that the passes reach [siamdiff.estimate.devices.UTILISATION]
    )
    cache: bool = True  # train.cache: the VAE does not run
    images: int = 1450  # of the training set
    steps: int = 3000
    textbook: bool = False  # gradients of stages 1 and 2 are scattered, not all-reduced as DeepSpeed does

    @property
    def width(self) -> int:
        """Bytes of a gradient or a weight that is sent; under bf16's autocast they stay in fp32 (infra/zero.py)."""
        return 2 if self.precision == "fp16" else 4


@dataclass(frozen=True)
class Step:
    """A reckoned step, in seconds but where it says otherwise."""

    micro_batch: int
    accumulation: int
    checkpointing: bool  # of activations
    memory: float  # bytes of a GPU
    passes: float
    encoding: float
    communication: float
    exposed: float  # of that, what nothing hides
    update: float
    saving: float  # checkpoints, spread over the steps between two
    reading: float  # what the reading processes take beside all of it
    carried: int  # samples, those that fill up included
    batch: int

    @property
    def seconds(self) -> float:
        """From one step to the next."""
        return max(self.passes + self.encoding + self.exposed + self.update + self.saving, self.reading)

    @property
    def rate(self) -> float:
        """Samples/s that count."""
        return self.batch / self.seconds


def bandwidth(node: Node, gpus: int) -> float:
    """Bytes/s at which a ring moves large messages past each GPU: the slowest link of its way."""
    return LINK_SHARE * (node.link if gpus <= node.gpus else min(node.link, node.network))


def traffic(setting: Setting, accumulation: int, trained: int = TRAINED, frozen: int = FROZEN) -> float:
    """Bytes that each GPU sends in a step.

    A ring moves (n - 1) / n of a tensor past each of n GPUs to scatter its sum or to gather it, and twice that to
    all-reduce it. DeepSpeed 0.19 all-reduces whole buckets at stages 1 and 2 (`use_multi_rank_bucket_allreduce`), at
    stage 2 after each micro-batch. Stage 3 gathers every weight, frozen ones too, for each forward and each backward.
    """
    gradients, weights = setting.width * trained, setting.width * (trained + frozen)
    reduction = 1 if setting.textbook else 2
    whole = {
        0: 2 * gradients,
        1: (reduction + 1) * gradients,
        2: (reduction * accumulation + 1) * gradients,
        3: accumulation * (gradients + 2 * weights),
    }[setting.stage]
    return whole * (setting.gpus - 1) / setting.gpus


def communication(setting: Setting, accumulation: int) -> float:
    """Seconds of a step's communication."""
    if setting.gpus == 1:
        return 0.0
    buckets = math.ceil(TRAINED / BUCKET)
    collectives = {
        0: buckets,
        1: 2 * buckets,
        2: buckets * (accumulation + 1),
        3: accumulation * (buckets + 2 * MODULES),
    }[setting.stage]
    moving = traffic(setting, accumulation) / bandwidth(setting.node, setting.gpus)
    return moving + collectives * LATENCY * math.ceil(math.log2(setting.gpus))


def slowest(samples: int, workers: int, active: float = ACTIVE) -> float:
    """Expected number of augmented samples of that worker which has most, of `samples` that each draws."""
    chances = [math.comb(samples, k) * active**k * (1 - active) ** (samples - k) for k in range(samples + 1)]
    below, expected = 0.0, 0.0
    for chance in chances[:-1]:
        below += chance
        expected += 1 - below**workers
    return expected


def encoded(setting: Setting) -> float:
    """Share of the samples that a process looks at through the VAE: with a cache none, else those it has not kept."""
    if setting.cache:
        return 0.0
    if setting.images > MOMENTS_KEPT:
        return 1.0
    looks = setting.steps * setting.batch / setting.gpus
    return setting.images * -math.expm1(looks * math.log1p(-1 / setting.images)) / looks


def checkpoint_bytes(stage: int, trained: int = TRAINED) -> int:
    """Weights and AdamW's moments in fp32; from stage 1 on DeepSpeed keeps fp32 copies beside the module's weights."""
    return (16 if stage else 12) * trained


def steps(setting: Setting, image_format: str = "jpg") -> list[Step]:
    """With and without activation checkpointing, each with the largest micro-batch that fits; none where none does."""
    return [
        step
        for checkpointing, passes in PASSES.items()
        if (step := _step(setting, checkpointing, passes, image_format))
    ]


def best(setting: Setting, image_format: str = "jpg") -> Step | None:
    """The faster of both; None: not even one sample fits."""
    return min(steps(setting, image_format), key=lambda step: step.seconds, default=None)


def _step(setting: Setting, checkpointing: bool, passes: Passes, image_format: str) -> Step | None:
    if setting.gpus > setting.batch:
        raise ValueError("a worker without samples: siamdiff.config refuses more workers than the batch has")
    fitting = _fitting(setting, checkpointing, passes)
    if fitting is None:
        return None
    micro_batch, accumulation, memory = fitting
    device, gpus, samples = setting.node.device, setting.gpus, micro_batch * accumulation
    share = setting.share or UTILISATION[setting.precision]
    # Workers wait for each other where gradients are reduced: after a step, from stage 2 on after each micro-batch.
    meetings = accumulation if setting.stage >= 2 else 1
    active = AFTER * meetings * slowest(samples // meetings, gpus)
    flops = samples * passes.plain + active * (passes.augmented - passes.plain)
    arithmetic = flops / (device.peak(setting.precision) * 1e12 * share)
    sending = communication(setting, accumulation)
    part = TRAINED / gpus if setting.stage else TRAINED
    saved = checkpoint_bytes(setting.stage)
    copied = 4 * TRAINED + (saved - 4 * TRAINED) / gpus if setting.stage else saved  # by rank 0, the slowest
    step: dict[str, Any] = {
        "passes": arithmetic,
        "encoding": samples * encoded(setting) * ENCODE / (device.fp32 * 1e12 * UTILISATION["fp32"]),
        "communication": sending,
        "exposed": max(0.0, sending - arithmetic) if setting.stage == 3 else sending,
        "update": UPDATE_BYTES * part / setting.node.memory,
        "reading": samples / (READERS * READ_PER_PROCESS[image_format]),
    }
    busy = step["passes"] + step["encoding"] + step["exposed"] + step["update"]
    saving = copied / TO_HOST / CHECKPOINT_SECONDS * busy
    carried = gpus * samples
    rest = {"memory": memory, "saving": saving, "carried": carried, "batch": setting.batch}
    return Step(micro_batch, accumulation, checkpointing, **step, **rest)


def _fitting(setting: Setting, checkpointing: bool, passes: Passes) -> tuple[int, int, float] | None:
    """(micro-batch, accumulation, bytes) of the largest micro-batch that the GPU has memory for."""
    train = Train.model_validate(
        {
            "workers": setting.gpus,
            "zero_stage": setting.stage,
            "precision": setting.precision,
            "activation_checkpointing": checkpointing,
        }
    )
    share = math.ceil(setting.batch / setting.gpus)
    for accumulation in range(1, share + 1):
        micro_batch, _ = split(setting.batch, setting.gpus, math.ceil(share / accumulation))
        reckoned = training_memory(
            train,
            trained=TRAINED,
            frozen=FROZEN,
            encoders=ENCODERS,
            activations=round(passes.first + (micro_batch - 1) * passes.further),
        )
        if reckoned.peak <= setting.node.device.memory * 1e9:
            return micro_batch, split(setting.batch, setting.gpus, micro_batch)[1], reckoned.peak
    return None
