"""Images per second at the tiny base: our sampler against diffusers' own pipeline over the same batches.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --batch 4 --steps 20

The model is the tiny base, trained for a few steps, with the paper's ControlNet; both load it from one folder, in
the same precision. "diffusers" is its StableDiffusionControlNetPipeline, called once per batch with prompts, masks and
initial noise, up to uint8 arrays; "siamdiff" is ShardSampler over a shard of the same masks, prompts and noise, up to
the bytes that its tar holds, PNG or JPEG encoded: more work. They take turns. Before anything is timed their images
are compared: in fp32 no level may differ by more than one, which is rounding. The aim is a quotient of 1.3.
"""

import logging
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import StableDiffusionControlNetPipeline
from torch import Tensor

from benchmarks.common import Spread, parser, show
from benchmarks.phantoms import PROMPT, write_set
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.model.base import load_base
from siamdiff.model.build import build_model
from siamdiff.model.folder import load_model, save_model
from siamdiff.model.tiny import make_tiny_base
from siamdiff.sampling.conditions import Condition, read_conditions
from siamdiff.sampling.plan import Plan, child_seed
from siamdiff.sampling.sampler import initial_noise
from siamdiff.sampling.shard import ShardSampler
from siamdiff.sections import Precision

AIM = 1.3
TRAINED = 5  # steps of each part: what weights hold does not change what they cost
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LATENT = 4  # channels


@dataclass(frozen=True)
class Setting:
    """What both sample."""

    resolution: int  # pixels
    batches: int  # of a round
    batch: int  # images
    steps: int
    guidance: float
    precision: Precision
    device: Literal["cpu", "cuda"]


class Ours:
    """A shard of `batches` batches by ShardSampler."""

    def __init__(self, folder: Path, plan: Plan, conditions: list[Condition], setting: Setting) -> None:
        self.sampler = ShardSampler(load_model(f"{folder}/model", setting.device), plan)
        self.conditions = conditions

    def images(self) -> list[np.ndarray]:
        """As the shard holds them, uint8 (H, W, 3)."""
        return [sample.decode().image for sample in self.sampler.make(self.conditions).samples]

    def run(self) -> None:
        """Makes the samples as their shard takes them."""
        self.sampler.make(self.conditions)


class Diffusers:
    """The same batches by diffusers' pipeline, one call each; masks and noise are tensors beforehand."""

    def __init__(self, folder: Path, conditions: list[Condition], setting: Setting) -> None:
        dtype = DTYPES[setting.precision]
        self.pipeline: Any = StableDiffusionControlNetPipeline.from_pretrained(folder / "model", dtype=dtype)
        self.pipeline.to(setting.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.setting = setting
        parts = [conditions[i : i + setting.batch] for i in range(0, len(conditions), setting.batch)]
        self.batches = [
            ([condition.prompt for condition in part], _hints(part), _noise(part, setting.resolution))
            for part in parts
        ]

    def images(self) -> list[np.ndarray]:
        """Uint8 (H, W, 3), in order."""
        made = []
        for prompts, hint, noise in self.batches:
            images = self.pipeline(
                prompts,
                image=hint,
                latents=noise.to(self.pipeline.dtype),
                num_inference_steps=self.setting.steps,
                guidance_scale=self.setting.guidance,
                output_type="np",
            ).images  # float32 (B, H, W, 3) in [0, 1]
            made += list((255 * images).round().astype(np.uint8))
        return made

    run = images


def _hints(part: list[Condition]) -> Tensor:
    masks = torch.from_numpy(np.stack([condition.mask for condition in part]))
    return (masks > 127).float()[:, None].expand(-1, 3, -1, -1)  # (B, 3, H, W)


def _noise(part: list[Condition], resolution: int) -> Tensor:
    shape = (LATENT, resolution // 8, resolution // 8)
    return torch.stack([initial_noise(child_seed(condition.seed, "noise"), shape) for condition in part])


def prepare(folder: Path, setting: Setting) -> tuple[Ours, Diffusers]:
    """Both samplers of a model that is made in a local folder, and what they sample."""
    count = setting.batches * setting.batch
    write_set(f"{folder}/data", count, setting.resolution, "png")
    masks = ShardSet.open(f"{folder}/data")
    keys = masks.keys()
    images = np.stack([masks.read(key).image for key in keys])
    make_tiny_base(
        images,
        setting.resolution,
        0,
        folder / "base",
        vae_steps=TRAINED,
        unet_steps=TRAINED,
        prompt=PROMPT,
    )
    config = Config.model_validate(
        {
            "root": str(folder),
            "data": {"resolution": setting.resolution, "prompt": PROMPT},
            "model": {"base": f"{folder}/base"},
            "generate": {
                "folds": 1,
                "fold_masks": ["real"],
                "steps": setting.steps,
                "guidance": setting.guidance,
                "batch_size": setting.batch,
                "shard_size": count,
                "precision": setting.precision,
            },
        }
    ).resolve()
    model = build_model(config, load_base(f"{folder}/base"))
    with torch.no_grad():
        for p in model.control.parameters():
            if not p.any():  # zero convolutions, which would hide the mask
                p.normal_(std=0.02)
    save_model(f"{folder}/model", folder / "base", model, config, masks)
    digest = load_model(f"{folder}/model").info["model_digest"]
    plan = Plan.of(config.generate, masks=masks.digest, model=digest, resolution=setting.resolution)
    conditions = read_conditions(masks, plan, plan.shard(keys, 0))
    return Ours(folder, plan, conditions, setting), Diffusers(folder, conditions, setting)


def largest_difference(ours: Ours, theirs: Diffusers) -> int:
    """Between levels of the two, of 255."""
    pairs = zip(ours.images(), theirs.images(), strict=True)
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs)


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Images per second of both, and their quotient round by round."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        ours, theirs = prepare(Path(folder), setting)
        difference = largest_difference(ours, theirs)  # warms both up, too
        if setting.precision == "fp32" and difference > 1:
            raise SystemExit(f"the two do not make the same images: levels differ by {difference}")
        count = setting.batches * setting.batch
        speeds: dict[str, list[float]] = {"siamdiff": [], "diffusers": []}
        for _ in range(rounds):
            for name, run in (("siamdiff", ours.run), ("diffusers", theirs.run)):
                started = time.perf_counter()
                run()
                speeds[name].append(count / (time.perf_counter() - started))
    quotients = [a / b for a, b in zip(speeds["siamdiff"], speeds["diffusers"], strict=True)]
    return {
        "images_per_second": {name: Spread.of(values) for name, values in speeds.items()},
        "quotient": Spread.of(quotients),
        "largest_difference": difference,
    }


def main() -> None:
    """Measure and print."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = parser(__doc__)
    options.add_argument("--resolution", type=int, default=64, help="side of the images, pixels [64]")
    options.add_argument("--batch", type=int, default=16, help="images of a batch [16]")
    options.add_argument("--batches", type=int, default=3, help="of a round [3]")
    options.add_argument("--rounds", type=int, default=7, help="measured rounds of each [7]")
    options.add_argument("--steps", type=int, default=50, help="of DDIM [50]")
    options.add_argument("--guidance", type=float, default=9.0, help="1: without [9]")
    options.add_argument("--precision", choices=tuple(DTYPES), default="fp32")
    options.add_argument("--threads", type=int, default=1, help="of PyTorch [1]")
    chosen = options.parse_args()
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(chosen.threads)
    setting = Setting(
        chosen.resolution,
        chosen.batches,
        chosen.batch,
        chosen.steps,
        chosen.guidance,
        chosen.precision,
        device,
    )
    figures = measure(setting, chosen.rounds)
    speeds = figures["images_per_second"]
    lines = [
        f"tiny base, {chosen.resolution} x {chosen.resolution} pixels, batch {chosen.batch}, {chosen.steps} steps, "
        f"guidance {chosen.guidance:g}, {chosen.precision}, {chosen.threads} threads, {chosen.rounds} rounds of "
        f"{chosen.batches} batches; levels differ by at most {figures['largest_difference']}",
        f"{'images/s':28}{'diffusers':28}times",
        f"{speeds['siamdiff']!s:28}{speeds['diffusers']!s:28}{figures['quotient']}",
    ]
    show({"aim": AIM, **figures}, lines, chosen.json)


if __name__ == "__main__":
    main()
