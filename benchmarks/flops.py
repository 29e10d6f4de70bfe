"""Arithmetic of training and sampling at Stable Diffusion 1.5 size, 384 x 384, counted on the meta device.

    python benchmarks/flops.py          # table beside the released code's figures
    python benchmarks/flops.py --json   # {"train_before": ..., "train_after": ..., "sample_image": ...}

TFLOP per sample, forward + backward for training; VAE and text encoder left out. Two figures are interpolated, exactly:
a pass costs in proportion to the samples in it, so training with a fraction of them augmented lies between training
with none and with all; and all sampling steps cost the same, so one and two of them tell the cost of fifty.
"""

import argparse
import json

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.siamese import SiameseDiffusion, StepInputs
from siamdiff.sampling.ddim import ddim_scheduler, sample
from siamdiff.training.losses import weights_at

RESOLUTION = 384
ACTIVE = 0.201  # share of the 1000 timesteps with t <= 200
STEPS = 50
RELEASED = {"train_before": 3.97, "train_after": 5.87, "sample_image": 60.1}
MEANING = {
    "train_before": "one training step before N/3",
    "train_after": f"one training step after N/3 ({ACTIVE:.1%} of the samples augmented)",
    "sample_image": f"one image, {STEPS} steps with guidance",
}


def sd15() -> SiameseDiffusion:
    """The trained networks at Stable Diffusion 1.5 size, without storage."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        controlnet = SiameseControlNetModel.from_unet(unet)
    return SiameseDiffusion(unet, controlnet, ddim_scheduler().alphas_cumprod)


def tera(counter: FlopCounterMode) -> float:
    """The counted operations in units of 1e12."""
    return counter.get_total_flops() / 1e12


def train_step(model: SiameseDiffusion, k: int) -> float:
    """TFLOP of step `k` of 3000 for one sample, forward and backward; Online-Augmentation, if on, takes it."""
    latent = RESOLUTION // 8
    with torch.device("meta"):
        inputs = StepInputs(
            z_0=torch.empty(1, 4, latent, latent),
            noise=torch.empty(1, 4, latent, latent),
            t=torch.empty(1, dtype=torch.long),
            text=torch.empty(1, 77, 768),
            image=torch.empty(1, 3, RESOLUTION, RESOLUTION),
            mask=torch.empty(1, 3, RESOLUTION, RESOLUTION),
        )
        everyone = torch.empty(1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        loss, _ = model(inputs, weights_at(k, 3000), active=everyone)
        loss.backward()
    return tera(counter)


def sample_image(model: SiameseDiffusion, num_steps: int) -> float:
    """TFLOP of one latent sampled in `num_steps`."""
    latent = RESOLUTION // 8
    mask, text, x_T = ((3, RESOLUTION, RESOLUTION), (77, 768), (4, latent, latent))
    mask, text, x_T = (torch.empty(1, *shape, device="meta") for shape in (mask, text, x_T))
    with FlopCounterMode(display=False) as counter:
        sample(model.unet, model.controlnet, ddim_scheduler(), mask, text, text, x_T, num_steps)
    return tera(counter)


def measure() -> dict[str, float]:
    """The three figures in TFLOP per sample."""
    model = sd15()
    none, every = train_step(model, k=0), train_step(model, k=2000)
    one, two = sample_image(model, 1), sample_image(model, 2)
    return {
        "train_before": none,
        "train_after": none + ACTIVE * (every - none),
        "sample_image": one + (STEPS - 1) * (two - one),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    as_json = parser.parse_args().json
    figures = measure()
    if as_json:
        print(json.dumps(figures))
        return
    print(f"TFLOP per sample, {RESOLUTION} x {RESOLUTION}{'':37}here  released code")
    for name, tflop in figures.items():
        print(f"{MEANING[name]:<60}{tflop:8.2f}  {RELEASED[name]:13.2f}")


if __name__ == "__main__":
    main()
