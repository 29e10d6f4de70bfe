"""The training objective of Siamese-Diffusion, Eq. 5-9 and 11-13, as pure functions of tensors.

Shapes: noise, eps_* (B, 4, h, w); t (B,) integers in [0, 999]; control_* one map per skip connection (13 for SD 1.5).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from siamdiff.model.unet import Controls


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What depends on the training step alone, hence is the same on every worker."""

    w_i: float  # share of the image's controls in the mix, grows from 0 to 1 over the training (Eq. 5)
    w_m: float = 1.0  # share of the mask's controls in the mix (Eq. 5)
    w_c: float = 1.0  # weight of the noise consistency loss (Eq. 9)
    augment: bool = False  # whether Online-Augmentation runs at this step (Eq. 12)
    t_tau: int = 200  # Online-Augmentation takes samples with t <= t_tau (Eq. 12)


def weights_at(k: int, n_steps: int, w_c: float = 1.0) -> LossWeights:
    """The weights after `k` of `n_steps` optimizer steps: w_i = k / N; Online-Augmentation once k > N / 3."""
    return LossWeights(w_i=k / n_steps, w_c=w_c, augment=3 * k > n_steps)


@dataclass(frozen=True)
class Augmented:
    """Online-Augmentation's second prediction, for the A samples that it takes."""

    eps_mask: Tensor  # eps_m', (A, 4, h, w), with gradient
    noise: Tensor  # its target, (A, 4, h, w)
    w_a: Tensor  # (A,), Eq. 12


@dataclass(frozen=True)
class Predictions:
    """Everything one training step predicts; `noise` is the target of each prediction."""

    noise: Tensor  # eps, (B, 4, h, w)
    control_mask: Controls  # c_m
    eps_mask: Tensor  # eps_m, (B, 4, h, w), with gradient
    eps_mix: Tensor  # sg[eps_mix], (B, 4, h, w)
    L_i: Tensor  # (), Eq. 8; its gradient reaches ControlNet and DHI alone
    augmented: Augmented | None = None  # from N/3 on


def mix(control_image: Controls, control_mask: Controls, weights: LossWeights) -> Controls:
    """Eq. 5: c_mix = w_i c_i + w_m sg[c_m], map by map."""
    pairs = zip(control_image, control_mask, strict=True)
    return tuple(weights.w_i * c_i + weights.w_m * c_m.detach() for c_i, c_m in pairs)


def squared_error(eps: Tensor, target: Tensor) -> Tensor:
    """|eps - target|^2 averaged over channels and pixels: one number per sample, (B,)."""
    return (eps - target).square().mean(dim=(1, 2, 3))


def image_loss(
    decode: Callable[[Controls], Tensor], control_mix: Controls, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Eq. 8 through a throw-away copy of the decoder, without making the copy.

    The gradient of L_i has to pass through the decoder's layers to c_mix and leave no trace on the decoder's weights.
    So it is taken right here with respect to c_mix alone, and hung onto the returned loss; the decoder's graph is
    free again before the mask branch builds its own. (Detached weights and toggled requires_grad do the same on
    paper, but break under ZeRO.)

    Args:
        decode: controls -> eps_mix (B, 4, h, w).
        control_mix: c_mix.
        noise: eps.

    Returns:
        sg[eps_mix] (B, 4, h, w), and the scalar L_i whose gradient reaches `control_mix` only.
    """
    if not torch.is_grad_enabled():
        eps_mix = decode(control_mix)
        return eps_mix, squared_error(eps_mix, noise).mean()
    leaves = tuple(c.detach().requires_grad_() for c in control_mix)
    eps_mix = decode(leaves)
    L_i = squared_error(eps_mix, noise).mean()
    return eps_mix.detach(), attach_gradient(L_i.detach(), control_mix, torch.autograd.grad(L_i, leaves))


def attach_gradient(value: Tensor, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> Tensor:
    """A scalar equal to `value` whose gradient with respect to `inputs` is `gradients`."""
    linear = torch.stack([(x * g).sum() for x, g in zip(inputs, gradients, strict=True)]).sum()
    return value + (linear - linear.detach())


def augmented_samples(t: Tensor, t_tau: int) -> Tensor:
    """Indices (A,) of the samples with t <= t_tau; the first one stands in (w_a = 0) where there is none.

    So that every worker makes the same passes whatever it drew: ZeRO-3 hangs otherwise.
    """
    active = (t <= t_tau).nonzero().flatten()
    return active if len(active) else active.new_zeros(1)


def augmentation_weight(t: Tensor, t_tau: int) -> Tensor:
    """Eq. 12: w_a = 1 for t <= t_tau, else 0; (A,). The paper prints t < t_tau; the released code includes it."""
    return (t <= t_tau).float()


def siamese_loss(predictions: Predictions, weights: LossWeights) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 6: L = L_m + L_i + L_c + L_m'.

    Returns:
        The scalar to call backward() on, and the terms as they enter it, detached: L_m, L_i, L_c, L_m_prime, L.
    """
    p = predictions
    L_m = squared_error(p.eps_mask, p.noise).mean()  # Eq. 7
    L_c = weights.w_c * squared_error(p.eps_mask, p.eps_mix).mean()  # Eq. 9
    L_m_prime = torch.zeros_like(L_m)
    if (
        a := p.augmented
    ):  # Eq. 13; the mean is over the whole batch, to which the samples left out contribute 0
        L_m_prime = (a.w_a * squared_error(a.eps_mask, a.noise)).sum() / len(p.noise)
    L = L_m + p.L_i + L_c + L_m_prime
    terms = {"L_m": L_m, "L_i": p.L_i, "L_c": L_c, "L_m_prime": L_m_prime, "L": L}
    return L, {name: term.detach() for name, term in terms.items()}
