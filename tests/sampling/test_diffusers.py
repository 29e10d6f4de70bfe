"""A trained model in diffusers' pipelines: found, loaded, equal to our sampler, and what docs/diffusers.md shows."""

import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

import siamdiff
from siamdiff.model.base import decode_latents, encode_prompts
from siamdiff.model.controlnet import SiameseControlNetModel
from siamdiff.model.diffusion import SD15_SCHEDULE
from siamdiff.model.folder import load_model
from siamdiff.sampling.sampler import initial_noise, sample
from siamdiff.sampling.schedulers import RELEASED_DDIM, ddim_scheduler
from tests.tiny_model import write_masks, write_model

DOCS = Path(__file__).resolve().parents[2] / "docs" / "diffusers.md"
PROMPT = "a polyp"
STEPS = 10
X_T = initial_noise(0, (1, 4, 4, 4))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(str(tmp_path_factory.mktemp("masks")), 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, masks, request):
    """A model whose base came with Stable Diffusion's own scheduler, PNDM."""
    folder, control = tmp_path_factory.mktemp("diffusers"), getattr(request, "param", "dhi")
    pndm = PNDMScheduler(**SD15_SCHEDULE)
    write_model(str(folder / "model"), folder / "base", masks, control=control, scheduler=pndm)
    return folder / "model"


@pytest.fixture(scope="module")
def mask(masks):
    """(1, 3, H, W) in {0, 1}."""
    return torch.from_numpy(masks.read(masks.keys()[0]).mask > 127).float().expand(1, 3, -1, -1)


def pipeline_of(folder, **options):
    pipeline = DiffusionPipeline.from_pretrained(folder, **options)  # the class that model_index.json names
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, mask, output_type="np", guidance=9.0):
    return pipeline(
        PROMPT,
        image=mask,
        latents=X_T.to(pipeline.dtype),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type=output_type,
    ).images


def test_import_siamdiff_is_enough_and_needs_no_pytorch(folder):
    """In a process of its own, as a user starts one: none of our modules but the package is imported."""
    program = f"""
import sys, siamdiff
assert "torch" not in sys.modules and "diffusers" not in sys.modules
from diffusers import StableDiffusionControlNetPipeline
pipeline = StableDiffusionControlNetPipeline.from_pretrained({str(folder)!r})
assert type(pipeline.controlnet) is siamdiff.SiameseControlNetModel
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_class_is_named_by_a_path_that_never_moves(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["controlnet"] == ["siamdiff", "SiameseControlNetModel"]
    assert pickle.loads(pickle.dumps(siamdiff.SiameseControlNetModel)) is SiameseControlNetModel
    with pytest.raises(AttributeError, match="no attribute 'Unheard'"):
        siamdiff.Unheard  # noqa: B018


def test_the_saved_scheduler_is_the_papers_whatever_the_base_came_with(folder):
    saved = pipeline_of(folder).scheduler.config
    assert saved["_class_name"] == "DDIMScheduler"
    assert {name: saved[name] for name in (*RELEASED_DDIM, *SD15_SCHEDULE)} == RELEASED_DDIM | SD15_SCHEDULE


@pytest.mark.parametrize("guidance", [9.0, 1.0])
@pytest.mark.parametrize("folder", ["dhi", "plain", "t2i-adapter"], indirect=True)
def test_our_sampler_and_the_pipeline_give_the_same_image(folder, mask, guidance, caplog, monkeypatch):
    model = load_model(str(folder))
    text, uncond = (
        encode_prompts(model.base.tokenizer, model.base.text_encoder, [prompt]) for prompt in (PROMPT, "")
    )
    scheduler = ddim_scheduler(model.base.scheduler.config)
    z_0 = sample(model.unet, model.control, scheduler, mask, text, uncond, X_T, STEPS, guidance)
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    with caplog.at_level("WARNING"):
        pipeline = pipeline_of(folder)
    assert not [record for record in caplog.records if "expected" in record.message]
    torch.testing.assert_close(z_0, draw(pipeline, mask, "latent", guidance), rtol=0, atol=1e-4)
    theirs = 255 * draw(pipeline, mask, guidance=guidance)  # before rounding to the 256 levels
    assert np.abs(decode_latents(model.vae, z_0) - theirs).max() <= 0.5 + 255 * 1e-4


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_other_samplers_work(folder, mask, kind):
    pipeline = pipeline_of(folder)
    as_saved = draw(pipeline, mask)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    image = draw(pipeline, mask)
    assert image.shape == (1, 32, 32, 3) and np.isfinite(image).all() and image.std() > 0.01
    assert not np.allclose(image, as_saved, atol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_works(folder, mask, dtype, tolerance):
    pipeline = pipeline_of(folder, dtype=dtype)
    networks = (pipeline.unet, pipeline.controlnet, pipeline.vae, pipeline.text_encoder)
    assert {network.dtype for network in networks} == {dtype}
    image = draw(pipeline, mask)
    assert np.abs(image - draw(pipeline_of(folder), mask)).max() < tolerance


def test_saved_by_the_pipeline_it_loads_again(folder, mask, tmp_path):
    pipeline_of(folder).save_pretrained(tmp_path)
    again = draw(pipeline_of(tmp_path), mask)
    np.testing.assert_array_equal(again, draw(pipeline_of(folder), mask))


def test_the_documented_snippets_run(folder, masks, tmp_path, monkeypatch):
    (tmp_path / "runs" / "polyps").mkdir(parents=True)
    (tmp_path / "runs" / "polyps" / "model").symlink_to(folder)
    Image.fromarray(masks.read(masks.keys()[0]).mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(snippets) == 2
    names = {}
    for snippet in snippets:
        exec(compile(snippet, str(DOCS), "exec"), names)
    with Image.open("image.png") as image:
        assert image.size == (32, 32)
    pipeline = names["pipeline"]
    for ours, of_pipeline in ((names["unet"], pipeline.unet), (names["controlnet"], pipeline.controlnet)):
        torch.testing.assert_close(ours.state_dict(), of_pipeline.state_dict(), rtol=0, atol=0)
