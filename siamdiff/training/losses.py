"""The training objective of Siamese-Diffusion, Eq. 5-9 and 11-13, as pure functions of tensors.

Shapes: noise, eps_* (B, 4, h, w); t (B,) integers in [0, 999]; control_* one map per skip connection (13 for SD 1.5).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siamdiff.model.unet import Controls


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What depends on the training step alone, hence is the same on every worker."""

    w_i: float | None  # share of the image's controls in the mix (Eq. 5); None: no image branch, hence no L_i
    w_m: float = 1.0  # share of the mask's controls in the mix (Eq. 5)
    w_c: float = 1.0  # weight of the noise consistency loss (Eq. 9); 0: no L_c
    augment: bool | None = (
        False  # whether Online-Augmentation runs at this step (Eq. 12); None: no L_m' at any
    )
    t_tau: int = 200  # Online-Augmentation takes samples with t <= t_tau (Eq. 12)


def weights_at(
    k: int,
    n_steps: int,
    w_c: float = 1.0,
    *,
    image_branch: bool = True,
    w_i: Literal["linear"] | float = "linear",
    online_augmentation: bool = True,
    k_tau: float = 1 / 3,
    t_tau: int = 200,
) -> LossWeights:
    """The weights after `k` of `n_steps` optimizer steps; the defaults are the paper's.

    Args:
        k: optimizer steps finished, from 0.
        n_steps: N, all of them.
        w_c: weight of the noise consistency loss (Eq. 9); 0 leaves it out.
        image_branch: whether there is Image-Diffusion; without it neither L_c nor L_m' can be.
        w_i: "linear" for k / N, or a constant in [0, 1].
        online_augmentation: whether the run has L_m'; it is 0 until k > k_tau N (at once for k_tau = 0).
        k_tau: share of the steps, in [0, 1].
        t_tau: timestep, in [0, 999].
    """
    if not image_branch:
        return LossWeights(w_i=None, w_c=0.0, augment=None)
    return LossWeights(
        w_i=k / n_steps if w_i == "linear" else w_i,
        w_c=w_c,
        augment=(k_tau == 0 or k > k_tau * n_steps) if online_augmentation else None,
        t_tau=t_tau,
    )


@dataclass(frozen=True)
class Augmented:
    """Online-Augmentation's second prediction, for the A samples that it takes."""

    eps_mask: Tensor  # eps_m', (A, 4, h, w), with gradient
    noise: Tensor  # its target, (A, 4, h, w)
    w_a: Tensor  # (A,), Eq. 12, times the sample's weight


@dataclass(frozen=True)
class Predictions:
    """Everything one training step predicts; `noise` is the target of each prediction."""

    noise: Tensor  # eps, (B, 4, h, w)
    control_mask: Controls  # c_m
    eps_mask: Tensor  # eps_m, (B, 4, h, w), with gradient
    eps_mix: Tensor | None = None  # sg[eps_mix], (B, 4, h, w); None without image branch, as L_i
    L_i: Tensor | None = None  # (), Eq. 8; its gradient reaches ControlNet and DHI alone
    augmented: Augmented | None = None  # only at steps with Online-Augmentation
    weight: Tensor | None = None  # (B,), see `batch_mean`


def mix(control_image: Controls, control_mask: Controls, w_i: float, w_m: float = 1.0) -> Controls:
    """Eq. 5: c_mix = w_i c_i + w_m sg[c_m], map by map."""
    pairs = zip(control_image, control_mask, strict=True)
    return tuple(w_i * c_i + w_m * c_m.detach() for c_i, c_m in pairs)


def squared_error(eps: Tensor, target: Tensor) -> Tensor:
    """|eps - target|^2 averaged over channels and pixels: one number per sample, (B,)."""
    return (eps - target).square().mean(dim=(1, 2, 3))


def batch_mean(errors: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of (B,) numbers, each times its sample's weight, 0 or more; () in their dtype.

    Weights let workers and micro-batches of one size carry a batch that they do not divide (siamdiff.data.stream):
    their mean over all micro-batches of all workers is 1. None is weight 1 for all.
    """
    return (errors if weight is None else errors * weight.to(errors.dtype)).mean()


def image_loss(
    decode: Callable[[Controls], Tensor],
    control_mix: Controls,
    noise: Tensor,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Eq. 8 through a throw-away copy of the decoder, without making the copy.

    The gradient of L_i has to pass through the decoder's layers to c_mix and leave no trace on the decoder's weights.
    So it is taken right here with respect to c_mix alone, and hung onto the returned loss; the decoder's graph is
    free again before the mask branch builds its own. (Detached weights and toggled requires_grad do the same on
    paper, but break under ZeRO.) It is taken of the sum over all elements, since that of the mean, smaller by their
    number, would drown in fp16, out of reach of any loss scaling.

    Args:
        decode: controls -> eps_mix (B, 4, h, w).
        control_mix: c_mix.
        noise: eps.
        weight: (B,), see `batch_mean`.

    Returns:
        sg[eps_mix] (B, 4, h, w), and the scalar L_i whose gradient reaches `control_mix` only.
    """
    if not torch.is_grad_enabled():
        eps_mix = decode(control_mix)
        return eps_mix, batch_mean(squared_error(eps_mix, noise), weight)
    leaves = tuple(c.detach().requires_grad_() for c in control_mix)
    eps_mix = decode(leaves)
    L_i, n = batch_mean(squared_error(eps_mix, noise), weight), noise.numel()
    gradients = torch.autograd.grad(n * L_i, leaves)
    return eps_mix.detach(), attach_gradient(L_i.detach(), control_mix, gradients, 1 / n)


def attach_gradient(
    value: Tensor, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...], scale: float = 1.0
) -> Tensor:
    """A scalar equal to `value` whose gradient with respect to `inputs` is `scale * gradients`, in value's dtype."""
    pairs = zip(inputs, gradients, strict=True)
    linear = scale * torch.stack([(x.to(value.dtype) * g.to(value.dtype)).sum() for x, g in pairs]).sum()
    return value + (linear - linear.detach())


def augmented_samples(t: Tensor, t_tau: int, weight: Tensor | None = None) -> Tensor:
    """Indices (A,) of the samples with t <= t_tau and a weight; the first one stands in (w_a = 0) where there is none.

    So that every worker makes the same passes whatever it drew: ZeRO-3 hangs otherwise.
    """
    active = augmentation_weight(t, t_tau, weight).nonzero().flatten()
    return active if len(active) else active.new_zeros(1)


def augmentation_weight(t: Tensor, t_tau: int, weight: Tensor | None = None) -> Tensor:
    """Eq. 12: w_a = 1 for t <= t_tau, else 0, times the sample's weight; (A,).

    The paper prints t < t_tau; the released code includes it.
    """
    w_a = (t <= t_tau).float()
    return w_a if weight is None else w_a * weight


def siamese_loss(predictions: Predictions, weights: LossWeights) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 6: L = L_m + L_i + L_c + L_m'; terms that are switched off are left out.

    Returns:
        The scalar to call backward() on, and the terms as they enter it, detached: L_m, then L_i, L_c and L_m_prime
        where the run has them, then L.
    """
    p = predictions
    terms = {"L_m": batch_mean(squared_error(p.eps_mask, p.noise), p.weight)}  # Eq. 7
    if p.L_i is not None:
        terms["L_i"] = p.L_i
    if p.eps_mix is not None and weights.w_c:
        terms["L_c"] = weights.w_c * batch_mean(squared_error(p.eps_mask, p.eps_mix), p.weight)  # Eq. 9
    if weights.augment is not None:
        terms["L_m_prime"] = torch.zeros_like(terms["L_m"])
    if a := p.augmented:
        # Eq. 13; the mean is over the whole batch, to which the samples left out contribute 0
        terms["L_m_prime"] = (a.w_a * squared_error(a.eps_mask, a.noise)).sum() / len(p.noise)
    L = torch.stack(list(terms.values())).sum()
    return L, {name: term.detach() for name, term in (terms | {"L": L}).items()}
