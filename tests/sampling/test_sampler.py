"""DDIM sampling, held to diffusers' own pipeline."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionControlNetPipeline
from torch import Tensor

from siamdiff.sampling.sampler import initial_noise, sample
from siamdiff.sampling.schedulers import ddim_scheduler
from tests.training.reference import tiny_inputs, tiny_model

MODEL = tiny_model(dtype=torch.float32)
INPUTS = tiny_inputs([0, 0], dtype=torch.float32)  # masks and texts of two samples
UNCOND = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(1))
X_T = torch.stack([initial_noise(seed, (4, 8, 8)) for seed in (0, 1)])


def draw(guidance: float = 9.0, uncond: Tensor = UNCOND, rows: slice = slice(None)) -> Tensor:
    mask, text, x_T = INPUTS.mask[rows], INPUTS.text[rows], X_T[rows]
    return sample(MODEL.unet, MODEL.controlnet, ddim_scheduler(), mask, text, uncond, x_T, 4, guidance)


def test_timesteps_are_the_released_codes() -> None:
    scheduler = ddim_scheduler()
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(981, 0, -20))
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]


def test_schedule_of_a_base_in_another_schedulers_format(caplog: pytest.LogCaptureFixture) -> None:
    """Stable Diffusion 1.5's folder holds a PNDM scheduler."""
    pndm = {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
        "skip_prk_steps": True,
        "set_alpha_to_one": True,
        "steps_offset": 0,
    }
    with caplog.at_level(logging.WARNING):
        scheduler = ddim_scheduler(pndm)
    assert not caplog.records
    torch.testing.assert_close(scheduler.betas, torch.linspace(0.001, 0.02, 1000))
    assert (scheduler.config.steps_offset, scheduler.config.set_alpha_to_one) == (1, False)


@pytest.mark.parametrize("guidance", [9.0, 1.0])
def test_equals_diffusers_pipeline(tmp_path: Path, guidance: float) -> None:
    """Saved as a pipeline, loaded by diffusers through the class's module path, and run there."""
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=2
    )
    StableDiffusionControlNetPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=MODEL.unet,
        controlnet=MODEL.controlnet,
        scheduler=ddim_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=INPUTS.mask,
        prompt_embeds=INPUTS.text,
        negative_prompt_embeds=UNCOND.expand_as(INPUTS.text),
        latents=X_T,
        num_inference_steps=4,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    torch.testing.assert_close(draw(guidance), theirs, rtol=1e-4, atol=1e-4)


def test_a_sample_is_the_same_in_any_batch() -> None:
    torch.testing.assert_close(draw()[1:], draw(rows=slice(1, 2)), rtol=1e-4, atol=1e-4)


def test_guidance_1_leaves_the_unconditional_branch_out() -> None:
    torch.testing.assert_close(draw(1.0, uncond=torch.full_like(UNCOND, float("nan"))), draw(1.0))


@pytest.mark.parametrize(("guidance", "batch"), [(9.0, 4), (1.0, 2)])
def test_one_dhi_pass_and_one_network_pass_a_step(guidance: float, batch: int) -> None:
    dhi, steps = [], []
    handles = [
        MODEL.controlnet.controlnet_cond_embedding.register_forward_hook(lambda *x: dhi.append(len(x[2]))),
        MODEL.controlnet.controlnet_mid_block.register_forward_hook(lambda *x: steps.append(len(x[2]))),
        MODEL.unet.conv_out.register_forward_hook(lambda *x: steps.append(len(x[2]))),
    ]
    draw(guidance)
    for handle in handles:
        handle.remove()
    assert dhi == [2]
    assert steps == [batch] * 8  # four steps, ControlNet and UNet


@torch.no_grad()
def test_guided_by_the_image_too_it_samples_with_the_mix() -> None:
    """Eq. 5 by diffusers' own forward passes: c_m and c_i apart, each branch by itself."""
    scheduler, w_i, z_t = ddim_scheduler(), 0.7, X_T
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        eps = []
        for text in (UNCOND.expand_as(INPUTS.text), INPUTS.text):
            (down_m, middle_m), (down_i, middle_i) = (
                MODEL.controlnet(z_t, t, text, hint, return_dict=False)
                for hint in (INPUTS.mask, INPUTS.image)
            )
            eps += MODEL.unet(
                z_t,
                t,
                text,
                down_block_additional_residuals=[w_i * i + m for i, m in zip(down_i, down_m, strict=True)],
                mid_block_additional_residual=w_i * middle_i + middle_m,
                return_dict=False,
            )
        z_t = scheduler.step(eps[0] + 9 * (eps[1] - eps[0]), t, z_t).prev_sample
    torch.testing.assert_close(draw_with_images(w_i), z_t, rtol=1e-4, atol=1e-4)


def draw_with_images(image_weight: float, guidance: float = 9.0) -> Tensor:
    return sample(
        MODEL.unet, MODEL.controlnet, ddim_scheduler(), INPUTS.mask, INPUTS.text, UNCOND, X_T, 4, guidance,
        image=INPUTS.image, image_weight=image_weight,
    )  # fmt: skip


@pytest.mark.parametrize("guidance", [9.0, 1.0])
def test_an_image_of_weight_0_changes_nothing(guidance: float) -> None:
    torch.testing.assert_close(draw_with_images(0.0, guidance), draw(guidance), rtol=1e-4, atol=1e-4)


def test_mask_and_image_pass_as_one_batch() -> None:
    dhi, passes = [], []
    handles = [
        MODEL.controlnet.controlnet_cond_embedding.register_forward_hook(lambda *x: dhi.append(len(x[2]))),
        MODEL.controlnet.controlnet_mid_block.register_forward_hook(lambda *x: passes.append(len(x[2]))),
    ]
    draw_with_images(1.0)
    for handle in handles:
        handle.remove()
    assert dhi == [4] and passes == [8] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_half_precision_on_a_trajectory_in_single(dtype: torch.dtype) -> None:
    unet, controlnet = (copy.deepcopy(network).to(dtype) for network in (MODEL.unet, MODEL.controlnet))
    arguments = (ddim_scheduler(), INPUTS.mask, INPUTS.text, UNCOND, X_T, 4)
    z_0 = sample(unet, controlnet, *arguments)
    assert z_0.dtype == torch.float32
    whole, tolerance = draw(), 0.05 if dtype == torch.bfloat16 else 0.01
    assert 0 < (z_0 - whole).std() < tolerance * whole.std()


def test_initial_noise_is_a_function_of_the_whole_seed() -> None:
    assert torch.equal(initial_noise(7, (4, 8, 8)), initial_noise(7, (4, 8, 8)))
    assert not torch.equal(initial_noise(7, (4, 8, 8)), initial_noise(7 + 2**32, (4, 8, 8)))
    noise = initial_noise(2**63, (4, 64, 64))
    assert noise.dtype == torch.float32
    assert abs(noise.mean().item()) < 0.03 and abs(noise.std().item() - 1) < 0.03
