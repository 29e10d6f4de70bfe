"""Part of run.py: images per second of our sampler and of diffusers' own pipeline over the same conditions.

"siamdiff" is ShardSampler over the masks of a shard, up to the bytes that its tar holds, PNG encoding included: more
work. "diffusers" is StableDiffusionControlNetPipeline, called once per batch with prompts, masks and initial noise, up
to arrays of 8 bit, its VAE in the precision of the networks (ours keeps fp32); once with batches as large as ours, once
with batches of one. They take turns. In fp32 their images are compared first: no level may differ by more than one,
which is rounding.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionControlNetPipeline
from torch import Tensor

from benchmarks.phantoms import PROMPT, make_pairs
from benchmarks.place import Place, quotient, take_turns
from benchmarks.reduced import make_base, make_model
from siamdiff.config import Config
from siamdiff.estimate.meter import Meter
from siamdiff.model.folder import LoadedModel
from siamdiff.sampling.conditions import Condition
from siamdiff.sampling.plan import Plan, child_seed, sample_seed
from siamdiff.sampling.sampler import initial_noise, sample
from siamdiff.sampling.schedulers import ddim_scheduler
from siamdiff.sampling.shard import ShardSampler
from siamdiff.training.speed import compile_blocks, use_channels_last

AIMS = {"times": 1.3, "images/s on a GPU": 6}
LATENT = 4  # channels
ALONE = "diffusers, one by one"  # one image is drawn, its time counted as often as a batch has images
DIGEST = 64 * "0"  # of a model that lies nowhere


@dataclass(frozen=True)
class Size:
    """What is sampled."""

    divisor: int  # of Stable Diffusion 1.5's widths
    resolution: int  # pixels
    batch: int  # images of a batch, which is a round
    steps: int  # of DDIM
    guidance: float = 9.0


class Sampling:
    """Untrained networks on a device, and what both samplers make of them.

    Args:
        place: where they run.
        size: of networks and batch.
    """

    def __init__(self, place: Place, size: Size) -> None:
        torch.manual_seed(0)
        self.place, self.size = place, size
        with torch.device(place.device):
            base = make_base(size.divisor)
            model = make_model(base).eval().requires_grad_(False)
        self.model = LoadedModel(base.unet, model.controlnet, base, {"model_digest": DIGEST})
        self.conditions = [_condition(i, mask) for i, mask in enumerate(_masks(size))]
        half = {part: copy.deepcopy(getattr(base, part)).to(place.dtype) for part in ("vae", "text_encoder")}
        self.sampler = ShardSampler(self.model, _plan(place, size))  # casts UNet and ControlNet
        self.pipeline: Any = StableDiffusionControlNetPipeline(
            **half,
            tokenizer=base.tokenizer,
            unet=base.unet,
            controlnet=model.controlnet,
            scheduler=ddim_scheduler(base.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def made(self) -> None:
        """Our samples, as the shard takes them: encoded."""
        self.sampler.make(self.conditions)

    def ours(self) -> list[np.ndarray]:
        """Our images as their shard holds them, uint8 (H, W, 3)."""
        return [made.decode().image for made in self.sampler.make(self.conditions).samples]

    def theirs(self, batch: int, of: int | None = None) -> list[np.ndarray]:
        """Diffusers' images, uint8 (H, W, 3), in batches of `batch`; of the first `of` conditions, or of all."""
        made, conditions = [], self.conditions[:of]
        for first in range(0, len(conditions), batch):
            part = conditions[first : first + batch]
            masks = torch.from_numpy(np.stack([condition.mask for condition in part]))
            images = self.pipeline(
                [condition.prompt for condition in part],
                image=(masks > 127).float()[:, None].expand(-1, 3, -1, -1),  # (B, 3, H, W)
                latents=self._noise(part).to(self.place.device, self.place.dtype),
                num_inference_steps=self.size.steps,
                guidance_scale=self.size.guidance,
                output_type="np",
            ).images  # float32 (B, H, W, 3) in [0, 1]
            made += list((255 * images).round().astype(np.uint8))
        return made

    def _noise(self, part: list[Condition]) -> Tensor:
        side = self.size.resolution // 8
        noise = [initial_noise(child_seed(one.seed, "noise"), (LATENT, side, side)) for one in part]
        return torch.stack(noise)  # (B, 4, h, w)


def _masks(size: Size) -> list[np.ndarray]:
    return [mask for _, mask in make_pairs(size.batch, size.resolution)]


def _condition(number: int, mask: np.ndarray) -> Condition:
    key = f"{number:016x}"
    return Condition(
        parent=key,
        fold=0,
        prompt=PROMPT,
        split="train",
        group=key,
        seed=sample_seed(0, 0, key),
        transform={},
        mask=mask,
    )


def _plan(place: Place, size: Size) -> Plan:
    generate = {
        "folds": 1,
        "fold_masks": ["real"],
        "steps": size.steps,
        "guidance": size.guidance,
        "batch_size": size.batch,
        "shard_size": size.batch,
        "precision": place.precision,
    }
    config = Config.model_validate({"generate": generate})
    return Plan.of(config.generate, masks=DIGEST, model=DIGEST, resolution=size.resolution)


def measure(place: Place, size: Size, rounds: int, rate: float, *, stages: bool) -> dict[str, Any]:
    """Images per second of ours and of diffusers' pipeline, at equal batch and one by one.

    Args:
        place: where.
        size: of networks and batch.
        rounds: measured batches of each.
        rate: operations a second of a large matrix product there.
        stages: whether to measure what is there for GPUs, too.

    Raises:
        SystemExit: the images differ.
    """
    sampling = Sampling(place, size)
    difference = largest_difference(sampling)  # warms both up, too
    if place.precision == "fp32" and difference > 1:
        raise SystemExit(f"the two do not make the same images: levels differ by {difference}")
    works = {
        "siamdiff": sampling.made,
        "diffusers": lambda: sampling.theirs(size.batch),
        ALONE: lambda: sampling.theirs(1, of=1),
    }
    measured = take_turns(place, works, rounds)
    alone = measured[ALONE]
    measured[ALONE] = replace(alone, seconds=[size.batch * seconds for seconds in alone.seconds])
    tflop = size.batch * tflop_of_an_image(size)
    return {
        "size": vars(size),
        "rows": {
            name: {
                "seconds": of.spread,
                "images_per_second": size.batch / of.spread.median,
                "peak_gb": of.peak / 1e9,
            }
            for name, of in measured.items()
        },
        "times": {
            name: quotient(measured[name], measured["siamdiff"]) for name in works if name != "siamdiff"
        },
        "tflop": tflop,
        "share": tflop * 1e12 / measured["siamdiff"].spread.median / rate,
        "largest_difference": difference,
        "stages": _staged(sampling, rounds, tflop, rate) if stages else [],
        "aims": AIMS,
    }


def largest_difference(sampling: Sampling) -> int:
    """Between levels of our images and theirs, of 255."""
    pairs = zip(sampling.ours(), sampling.theirs(sampling.size.batch), strict=True)
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs)


def _staged(sampling: Sampling, rounds: int, tflop: float, rate: float) -> list[dict[str, Any]]:
    """Our sampler with what is there for GPUs, one thing added to the other."""
    model, place = sampling.model, sampling.place
    networks = model.unet, model.control, model.vae
    additions = {
        "plain": lambda: None,
        "+ channels last": lambda: use_channels_last(*networks),
        "+ compiled": lambda: compile_blocks(model.unet, model.control),
    }
    rows = []
    for name, add in additions.items():
        add()
        spread = take_turns(place, {"ours": sampling.made}, rounds)["ours"].spread
        rows.append(
            {
                "stage": name,
                "seconds": spread,
                "images_per_second": sampling.size.batch / spread.median,
                "share": tflop * 1e12 / spread.median / rate,
            }
        )
    return rows


@torch.no_grad()
def tflop_of_an_image(size: Size) -> float:
    """Operations of one image, VAE's decoder included, counted on the meta device; 10^12."""
    with torch.device("meta"):
        base = make_base(size.divisor)
        model = make_model(base).eval()
        side = size.resolution // 8
        latents, mask = torch.empty(1, LATENT, side, side), torch.empty(1, 3, 8 * side, 8 * side)
        text = torch.empty(1, 77, base.text_encoder.config.hidden_size)

        def counted(steps: int) -> int:
            given = mask, text, text, latents, steps, size.guidance
            with Meter([]) as meter:
                sample(base.unet, model.controlnet, ddim_scheduler(), *given)
            return meter.flops

        one, two = counted(1), counted(2)
        with Meter([]) as meter:
            base.vae.decode(latents)
    return (one + (size.steps - 1) * (two - one) + meter.flops) / 1e12
