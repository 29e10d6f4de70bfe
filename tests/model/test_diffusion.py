"""Eq. 1, 11 and 12."""

import torch

from siamdiff.model.diffusion import SD15_SCHEDULE, abar, predict_z_0, q_sample, renoise
from siamdiff.sampling.schedulers import ddim_scheduler

T = torch.tensor([0, 150, 999])


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z_0, noise, eps = torch.randn(3, 3, 4, 8, 8, generator=generator, dtype=torch.float64)
    return z_0, noise, eps, ddim_scheduler().alphas_cumprod


def test_schedule_is_stable_diffusions() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, dim=0).float()
    torch.testing.assert_close(ddim_scheduler(SD15_SCHEDULE).alphas_cumprod, expected, rtol=1e-5, atol=0)


def test_q_sample_mixes_signal_and_noise() -> None:
    z_0, noise, _, alphas_cumprod = tensors()
    z_t = q_sample(z_0, noise, T, alphas_cumprod)
    for i, t in enumerate(T):
        a = alphas_cumprod[t].double()
        torch.testing.assert_close(z_t[i], a.sqrt() * z_0[i] + (1 - a).sqrt() * noise[i])


def test_predict_z_0_inverts_q_sample() -> None:
    z_0, noise, _, alphas_cumprod = tensors()
    z_t = q_sample(z_0, noise, T, alphas_cumprod)
    torch.testing.assert_close(predict_z_0(z_t, noise, T, alphas_cumprod), z_0)


def test_renoise_is_eq_11_followed_by_eq_1() -> None:
    z_0, noise, eps, alphas_cumprod = tensors()
    z_t = q_sample(z_0, noise, T, alphas_cumprod)
    two_steps = q_sample(predict_z_0(z_t, eps, T, alphas_cumprod), noise, T, alphas_cumprod)
    torch.testing.assert_close(
        renoise(z_t, noise, eps.requires_grad_(), T, alphas_cumprod), two_steps.detach()
    )


def test_renoised_latent_carries_no_gradient() -> None:
    z_0, noise, eps, alphas_cumprod = tensors()
    assert not renoise(z_0, noise, eps.requires_grad_(), T, alphas_cumprod).requires_grad


def test_abar_broadcasts_over_latents() -> None:
    like = torch.zeros(3, 4, 8, 8, dtype=torch.float64)
    found = abar(ddim_scheduler().alphas_cumprod, T, like)
    assert found.shape == (3, 1, 1, 1) and found.dtype == torch.float64
