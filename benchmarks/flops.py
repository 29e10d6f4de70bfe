"""Arithmetic of training and sampling at Stable Diffusion 1.5 size, 384 x 384, counted on the meta device.

    python benchmarks/flops.py          # table beside the released code's figures
    python benchmarks/flops.py --json   # {"train_before": ..., "train_after": ..., "sample_image": ...}

TFLOP per sample, forward + backward for training; VAE and text encoder left out. Two figures are interpolated, exactly:
a pass costs in proportion to the samples in it, so training with a fraction of them augmented lies between training
with none and with all; and all sampling steps cost the same, so one and two of them tell the cost of fifty.
The counting is that of --dry-run (siamdiff/estimate).
"""

import argparse
import json

from siamdiff.config import Config
from siamdiff.estimate.architecture import Architecture, architecture
from siamdiff.estimate.counting import sample_latents, train_step
from siamdiff.model.siamese import SiameseDiffusion
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


def networks() -> Architecture:
    """Everything at Stable Diffusion 1.5 size, without storage."""
    return architecture(
        Config.model_validate({"model": {"base": "stable-diffusion-v1-5/stable-diffusion-v1-5"}})
    )


def sd15() -> SiameseDiffusion:
    """The trained networks among them."""
    return networks().model


def measure() -> dict[str, float]:
    """The three figures in TFLOP per sample."""
    base = networks()
    none, every = (train_step(base, weights_at(k, 3000), RESOLUTION, 1).flops for k in (0, 2000))
    return {
        "train_before": none / 1e12,
        "train_after": (none + ACTIVE * (every - none)) / 1e12,
        "sample_image": sample_latents(base, RESOLUTION, 1, STEPS, guidance=9.0).flops / 1e12,
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
