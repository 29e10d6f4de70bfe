"""What --dry-run says: size, memory, arithmetic, hours and cost of a configuration, as text."""

from collections.abc import Iterator
from math import floor

import torch

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.stream import split
from siamdiff.estimate.architecture import Architecture, architecture, count
from siamdiff.estimate.counting import Count, decode, sample_latents, train_step
from siamdiff.estimate.devices import UTILISATION, Device, device_named
from siamdiff.estimate.memory import CONTEXT, Memory, in_half, processes, training_memory
from siamdiff.sampling.schedulers import passes
from siamdiff.sections import Precision, Train
from siamdiff.training.losses import LossWeights

TERA, GB = 1e12, 1e9
USABLE = 0.9  # of a GPU's memory: what is reckoned leaves out kernels' workspaces and gaps between tensors
IMAGES = 1000  # that hours of sampling are told for, where their number is not known
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dry_run(config: Config, stages: tuple[str, ...]) -> str:
    """Every line for the stages, of "train" and "generate", that a command would run.

    Raises:
        UserError: a device that is not in the table, a base whose configuration is missing.
    """
    device = device_named(config.cluster.device) if config.cluster.device else None
    networks = architecture(config)
    share = min(1.0, config.cluster.gpus or 1.0)  # of a GPU that several workers have
    config = settled(config, networks, share * device.memory * GB if device else None)
    lines = list(_sizes(networks))
    copies = "generate" in stages and config.generate.method == "copy-paste"  # which need no training
    if "train" in stages and not copies:
        lines += _training(config, networks, device)
    if "generate" in stages:
        lines += _generation(config, networks, device)
    return "\n".join(lines) + "\n"


def settled(config: Config, networks: Architecture, memory: float | None) -> Config:
    """A configuration that says whether activations are recomputed, where it left that to the memory.

    Args:
        config: resolved.
        networks: of it.
        memory: of the smallest GPU, bytes; None: it is not known, or there is none, and nothing is recomputed.
    """
    if config.train.activation_checkpointing != "auto":
        return config
    plain, recomputing = (
        config.model_copy(
            update={"train": config.train.model_copy(update={"activation_checkpointing": chosen})}
        )
        for chosen in (False, True)
    )
    if memory is None or training_need(plain, networks).peak <= USABLE * memory:
        return plain
    return recomputing


def training_need(config: Config, networks: Architecture, *counts: Count) -> Memory:
    """Memory of one training process; `config` says whether activations are recomputed.

    Args:
        config, networks: see `settled`.
        counts: of `train_counts`, where they are known already.
    """
    trained = count(networks.model, trainable=True)
    return training_memory(
        config.train,
        trained=trained,
        frozen=count(networks.model) - trained,
        encoders=count(networks.base.vae) + count(networks.base.text_encoder),
        activations=max(counted.peak for counted in counts or train_counts(config, networks)),
    )


def train_counts(config: Config, networks: Architecture) -> tuple[Count, Count]:
    """One pass of a micro-batch before Online-Augmentation, and one in which it takes every sample.

    Both are the same where it is off.
    """
    train = config.train
    # autocast keeps some operations in fp32: reckoned as fp32 throughout, an upper bound of its memory
    networks.model.to(torch.float16 if in_half(train) else torch.float32)

    def counted(*, augment: bool) -> Count:
        weights = LossWeights(
            w_i=0.5 if train.image_branch else None,
            w_c=train.consistency_weight,
            augment=augment if train.online_augmentation else None,
        )
        return train_step(
            networks,
            weights,
            config.data.resolution,
            micro_batch(train),
            checkpointing=train.activation_checkpointing is True,
        )

    before = counted(augment=False)
    return before, counted(augment=True) if train.online_augmentation else before


def micro_batch(train: Train) -> int:
    """Samples that one process takes in one pass."""
    return split(train.batch_size, processes(train), train.micro_batch)[0]


def steps_before(train: Train) -> int:
    """Steps k = 0, 1, ... that are not yet augmented: those with k <= K_tau (Eq. 13)."""
    if not train.online_augmentation:
        return train.steps
    return min(train.steps, floor(train.augment_after * train.steps) + 1) if train.augment_after else 0


def _sizes(networks: Architecture) -> Iterator[str]:
    yield f"architecture: {networks.origin}"
    yield f"  {'network':<14}{'parameters':>15}{'trainable':>15}"
    for name, (everything, trained) in networks.parameters().items():
        yield f"  {name:<14}{everything:>15,}{trained:>15,}"
    yield f"  trainable parameters {count(networks.model, trainable=True):,}"


def _training(config: Config, networks: Architecture, device: Device | None) -> Iterator[str]:
    train = config.train
    before, after = train_counts(config, networks)
    size, accumulation = split(train.batch_size, processes(train), train.micro_batch)
    carried = processes(train) * size * accumulation
    filling = f" ({carried - train.batch_size} of them fill up)" if carried != train.batch_size else ""
    engine = f"ZeRO stage {train.zero_stage}" if train.engine == "deepspeed" else "one process"
    yield (
        f"training: {_several(processes(train), 'worker')} x micro-batch {size} x accumulation "
        f"{accumulation} = {carried}{filling}, {config.data.resolution} x {config.data.resolution} pixels, "
        f"{train.precision}, {engine}"
        f"{', activation checkpointing' if train.activation_checkpointing else ''}"
    )
    memory = training_need(config, networks, before, after)
    yield from _memory(memory)
    if device and memory.peak / GB > device.memory:
        yield _too_much(memory.peak, device, _what_to_lower(train))
    # A pass costs in proportion to the samples in it, so that the mean over t lies between none and all augmented.
    share = (train.augment_timesteps + 1) / 1000
    of_micro = before.flops, before.flops + share * (after.flops - before.flops)
    first, later = (carried / size * flops for flops in of_micro)
    n = steps_before(train)
    whole = n * first + (train.steps - n) * later
    a_sample = first / TERA / train.batch_size
    yield f"arithmetic of a step, all workers: {first / TERA:,.4g} TFLOP ({a_sample:.2f} a sample)"
    if n < train.steps:
        yield (
            f"  from step {n} on, with {share:.1%} of the samples augmented: {later / TERA:,.4g} TFLOP "
            f"({later / TERA / train.batch_size:.2f} a sample)"
        )
    yield f"  all {train.steps:,} steps: {whole / TERA:,.0f} TFLOP"
    yield from _hours("training", whole, train.precision, processes(train), config, device)


def _several(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _memory(memory: Memory) -> Iterator[str]:
    rows = {
        "weights": memory.weights,
        "master copies": memory.master,
        "optimizer": memory.optimizer,
        "averages": memory.averages,
        "gradients": memory.gradients,
        "VAE, text": memory.encoders,
        "activations": memory.activations,
        "buffers": memory.buffers,
        "update": memory.update,
    }
    yield "  memory of each GPU, in GB (10^9 bytes):"
    for name, size in rows.items():
        if size:
            note = (
                "  (after the backward pass, in place of activations and buffers)" if name == "update" else ""
            )
            yield f"    {name:<14}{size / GB:8.2f}{note}"
    yield f"    {'peak':<14}{memory.peak / GB:8.2f}  (with {CONTEXT / GB:.0f} GB assumed for CUDA itself)"


def _what_to_lower(train: Train) -> str:
    fixes = []
    if not train.activation_checkpointing:
        fixes.append("train.activation_checkpointing true")
    if micro_batch(train) > 1:
        fixes.append(f"train.micro_batch below {micro_batch(train)}")
    if train.engine == "deepspeed" and train.zero_stage and not train.offload_optimizer:
        fixes.append("train.offload_optimizer true")
    if train.engine == "deepspeed" and train.precision != "fp16":
        fixes.append("train.precision fp16")
    if train.engine == "deepspeed" and train.workers == 1 and train.precision != "fp16":
        fixes.append("train.engine torch")
    return ", ".join(fixes) or "a GPU with more memory"


def _generation(config: Config, networks: Architecture, device: Device | None) -> Iterator[str]:
    settings, resolution = config.generate, config.data.resolution
    if settings.method == "copy-paste":
        yield "generation: copies of the real pairs, no network"
        return
    networks.model.to(DTYPES[settings.precision])
    asked = passes(settings.scheduler, settings.steps)
    latents = sample_latents(
        networks,
        resolution,
        settings.batch_size,
        asked,
        settings.guidance,
        with_image=settings.guide == "mask+image",
    )
    images = decode(networks, resolution, settings.batch_size)
    yield (
        f"generation: {_several(settings.actors, 'sampler')} x batch {settings.batch_size}, "
        f"{resolution} x {resolution} pixels, {settings.steps} steps of {settings.scheduler}"
        f"{f' ({asked} passes)' if asked != settings.steps else ''}, {settings.precision}"
    )
    width = DTYPES[settings.precision].itemsize
    weights = width * count(networks.model) + 4 * (
        count(networks.base.vae) + count(networks.base.text_encoder)
    )
    peak = weights + max(latents.peak, images.peak) + CONTEXT
    yield "  memory of each GPU, in GB (10^9 bytes):"
    yield f"    {'weights':<14}{weights / GB:8.2f}"
    yield f"    {'sampling':<14}{latents.peak / GB:8.2f}"
    yield f"    {'decoding':<14}{images.peak / GB:8.2f}  (after sampling)"
    yield f"    {'peak':<14}{peak / GB:8.2f}  (with {CONTEXT / GB:.0f} GB assumed for CUDA itself)"
    if device and peak / GB > device.memory:
        yield _too_much(peak, device, f"generate.batch_size below {settings.batch_size}")
    a_latent, an_image = latents.flops / settings.batch_size, images.flops / settings.batch_size
    yield f"arithmetic of an image: {a_latent / TERA:.2f} TFLOP, and {an_image / TERA:.2f} in the VAE's decoder (fp32)"
    masks = _masks(config)
    number = settings.folds * masks if masks else IMAGES
    what = f"{number:,} images" + ("" if masks else " (the number of masks is not known here)")
    # the decoder computes in fp32: its share counts as much more as fp32 is slower
    slowdown = 1.0
    if device:
        slowdown = (
            device.peak(settings.precision)
            * UTILISATION[settings.precision]
            / (device.fp32 * UTILISATION["fp32"])
        )
    yield from _hours(
        what,
        number * (a_latent + slowdown * an_image),
        settings.precision,
        settings.actors,
        config,
        device,
    )


def _masks(config: Config) -> int | None:
    """Masks per fold, where the configuration or a set on this machine tells."""
    from siamdiff.data.manifest import MANIFEST, read_manifest

    settings = config.generate
    assert settings.masks, "resolve() comes first"
    folder = storage.local_path(settings.masks)
    if folder is None or not (folder / MANIFEST).is_file():
        return settings.limit
    there = read_manifest(settings.masks).splits.get(settings.split, 0)
    return min(there, settings.limit or there)


def _too_much(peak: int, device: Device, fixes: str) -> str:
    return f"  WARNING: {peak / GB:.1f} GB do not fit into the {device.memory} GB of one {device.name}; try {fixes}"


def _hours(
    what: str, flops: float, precision: Precision, gpus: int, config: Config, device: Device | None
) -> Iterator[str]:
    if device is None:
        yield f"hours of {what}: name the GPU for them, such as --cluster.device 'RTX 4090'"
        return
    share, peak = UTILISATION[precision], device.peak(precision)
    hours = flops / (gpus * peak * TERA * share) / 3600
    yield (
        f"hours of {what}: {hours:.3g} on {gpus} x {device.name}, assuming that {share:.0%} of its {peak:g} TFLOPS in "
        f"{precision} are reached"
    )
    if config.cluster.price is not None:
        cost = hours * gpus * config.cluster.price
        yield f"  cost: {cost:,.2f} dollars, at {config.cluster.price:g} a GPU hour"
