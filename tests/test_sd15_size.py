"""Stable Diffusion 1.5's true size, with random weights, on a CPU: a whole run of one step, and a sample.

One process and plain PyTorch. It takes minutes, 20 GB of memory and 40 GB of disk.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.model.base import encode_prompts, write_model_index
from siamdiff.model.folder import load_model
from siamdiff.model.sd1 import make_scheduler, make_tokenizer, network_config
from siamdiff.run import lease
from siamdiff.sampling.sampler import initial_noise, sample
from siamdiff.sampling.schedulers import ddim_scheduler
from siamdiff.training import bases
from siamdiff.training.context import SingleProcess
from siamdiff.training.engine import TorchEngine
from siamdiff.training.loop import train
from tests.sets import write_phantoms

SIDE = 128
LIMIT = 20 * 10**9  # bytes


def write_base(folder: Path) -> None:
    """Networks of Stable Diffusion 1.5's configuration, as diffusers and transformers write them."""
    torch.manual_seed(0)
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        kind.from_config(network_config(name)).save_pretrained(folder / name)
    text_encoder = CLIPTextModel(CLIPTextConfig(**network_config("text_encoder")))
    text_encoder.save_pretrained(folder / "text_encoder")
    make_tokenizer().save_pretrained(folder / "tokenizer")
    make_scheduler().save_pretrained(folder / "scheduler")
    write_model_index(folder, "StableDiffusionPipeline")


def configure(root: Path) -> Config:
    """One step with every loss: w_i at its largest, Online-Augmentation from the first step, for every timestep."""
    return Config.model_validate(
        {
            "root": str(root),
            "data": {"resolution": SIDE, "prompt": "a polyp"},
            "model": {"base": str(root / "base")},
            "train": {
                **{"run": "r", "engine": "torch", "steps": 1, "batch_size": 1, "loader_workers": 0},
                **{"image_weight": 1.0, "augment_after": 0.0, "augment_timesteps": 999},
            },
            "generate": {"steps": 2},
        }
    ).resolve()


def train_one_step(root: Path) -> dict[str, Any]:
    """Trains; returns what was trained and the peak of this process's memory."""
    config, found = configure(root), {}

    def make(model: torch.nn.Module, config: Config, accumulation: int) -> TorchEngine:
        found["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return TorchEngine.of(model, config, accumulation)

    base = bases.prepare_base(config)
    with lease(config.run_uri()) as held:
        train(config, base, held, SingleProcess(torch.device("cpu")), make)
    found["foreign"] = sorted({"ray", "deepspeed"} & sys.modules.keys())
    return found | {"peak": peak()}


def sample_one(root: Path) -> dict[str, Any]:
    """Two guided steps with the trained model."""
    model = load_model(f"{configure(root).run_uri()}/model")
    text, uncond = encode_prompts(model.base.tokenizer, model.base.text_encoder, ["a polyp", ""]).chunk(2)
    mask = torch.zeros(1, 3, SIDE, SIDE)
    mask[..., 32:96, 32:96] = 1.0
    x_T = initial_noise(0, (4, SIDE // 8, SIDE // 8))[None]
    z_0 = sample(model.unet, model.control, ddim_scheduler(), mask, text, uncond, x_T, num_steps=2)
    return {"shape": list(z_0.shape), "finite": bool(z_0.isfinite().all()), "peak": peak()}


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def in_a_process(function: str, root: Path) -> Any:
    """Runs a function of this module with memory of its own; its answer."""
    code = (
        f"import json, pathlib, torch; torch.set_num_threads(2); from tests.test_sd15_size import {function}; "
        f"print(json.dumps({function}(pathlib.Path({str(root)!r}))))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A small set and the base; not pytest's folder, which would keep 40 GB of it."""
    with tempfile.TemporaryDirectory(prefix="siamdiff-sd15-") as folder:
        write_phantoms(f"{folder}/data", count=4, size=SIDE)
        in_a_process("write_base", Path(folder) / "base")
        yield Path(folder)


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_a_step_and_a_sample_fit_in_20_gb(root: Path) -> None:
    trained = in_a_process("train_one_step", root)
    assert trained["trainable"] == 874_264_516
    assert trained["foreign"] == []
    assert trained["peak"] <= LIMIT, f"{trained['peak'] / 1e9:.1f} GB"
    (line,) = storage.read_bytes(f"{configure(root).run_uri()}/metrics.jsonl").splitlines()
    row = json.loads(line)
    assert all(math.isfinite(row[name]) for name in ("L_m", "L_i", "L_c", "L_m_prime", "L"))
    assert row["L_m_prime"] > 0

    sampled = in_a_process("sample_one", root)
    assert (sampled["shape"], sampled["finite"]) == ([1, 4, SIDE // 8, SIDE // 8], True)
    assert sampled["peak"] <= LIMIT, f"{sampled['peak'] / 1e9:.1f} GB"
    sys.stderr.write(
        f"peak: training {trained['peak'] / 1e9:.1f} GB, sampling {sampled['peak'] / 1e9:.1f} GB\n"
    )
