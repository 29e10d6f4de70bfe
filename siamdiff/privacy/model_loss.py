"""Membership from the model: whether it predicts the noise of training pairs better than that of held-out ones.

A diffusion model has a lower loss on what it was trained on; the gap is widest at small timesteps (Carlini et al.
2023). Every pair is asked the same: fixed timesteps, and noises of a seed. Losses are standardised per timestep over
all pairs, since their sizes differ, and averaged.
"""

from collections.abc import Sequence

import numpy as np
import torch

from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.model.base import encode_prompts
from siamdiff.model.diffusion import q_sample
from siamdiff.model.folder import LoadedModel, load_model
from siamdiff.privacy.neighbours import Real, membership_of
from siamdiff.privacy.record import Attack, Membership
from siamdiff.privacy.statistics import Scores, attack
from siamdiff.sampling.predictor import predictor
from siamdiff.training.encoders import image_moments, signed_images
from siamdiff.training.losses import squared_error

TIMESTEPS = (50, 100, 200, 300, 400)  # of 1000
NOISES = 2  # of each timestep
_STREAM = 0x9A1  # of random numbers under the seed


def model_membership(
    uri: str, real_set: ShardSet, real: Real, count: int, seed: int, device: str
) -> Membership:
    """The check.

    Args:
        uri: of the model.
        real_set: what it was trained on.
        real: its images.
        count: pairs that are looked at, of training and of held-out ones each, at most.
        seed: of their choice and of the noises.
        device: "cpu" or "cuda".

    Raises:
        SiamdiffError: the model is damaged.
    """
    if not count:
        return Membership(verdict="not done", said="It was left out: --members 0.")
    if real.members == len(real.keys):
        return Membership(verdict="not done", said="The real set has no held-out images (val or test).")
    model = load_model(uri, device)
    if model.info.get("data_digest") != real_set.digest:
        return Membership(
            verdict="not done", said="The model was trained on another set than the one at hand."
        )
    if int(model.info.get("resolution", 0)) != real_set.manifest.resolution:
        return Membership(
            verdict="not done", said="The model draws images of another size than those of the real set."
        )
    rng = np.random.default_rng([seed, _STREAM])
    chosen = [
        np.sort(rng.choice(np.arange(*span), min(count, span[1] - span[0]), replace=False))
        for span in ((0, real.members), (real.members, len(real.keys)))
    ]
    losses = [_losses(model, real_set, [real.keys[i] for i in rows], seed, device) for rows in chosen]
    scores = _standardised(losses)
    sides = [
        Scores(values, [real.groups[i] for i in rows]) for values, rows in zip(scores, chosen, strict=True)
    ]
    found: list[Attack] = [attack("loss of the model", *sides, seed=seed)]
    return membership_of(found, real, "predicted better by the model")


def _losses(
    model: LoadedModel, real_set: ShardSet, keys: Sequence[str], seed: int, device: str
) -> np.ndarray:
    """|eps_m - eps|^2 of each pair at each timestep, mean over noises, (N, T)."""
    return np.array([_of_pair(model, real_set, key, seed, device) for key in keys])


@torch.inference_mode()
def _of_pair(model: LoadedModel, real_set: ShardSet, key: str, seed: int, device: str) -> np.ndarray:
    sample = real_set.read(key)
    image = signed_images(torch.from_numpy(sample.image)[None].to(device))  # (1, 3, H, W)
    mean = image_moments(model.base, image[0])[0].to(device)  # (4, h, w)
    count = len(TIMESTEPS) * NOISES
    z_0 = (mean * model.vae.config["scaling_factor"])[None].expand(count, -1, -1, -1)
    rng = np.random.default_rng([seed, _STREAM, 1])  # the same for every pair
    noise = torch.from_numpy(rng.standard_normal(z_0.shape, dtype=np.float32)).to(device)
    steps = model.base.scheduler.config["num_train_timesteps"]
    t = torch.tensor(TIMESTEPS, device=device).repeat_interleave(NOISES) * steps // 1000  # (B,)
    alphas = model.base.scheduler.alphas_cumprod
    mask = torch.from_numpy(sample.mask > 127).to(device)[None, None].expand(1, 3, -1, -1).float()
    base = model.base
    text = encode_prompts(base.tokenizer, base.text_encoder, [sample.meta.prompt]).expand(count, -1, -1)
    predict = predictor(model.unet, model.control, mask, text)
    errors = squared_error(predict(q_sample(z_0, noise, t, alphas), t), noise)  # (B,)
    if not torch.isfinite(errors).all():
        raise SiamdiffError("the model predicts no finite noise; its weights are damaged, train it again")
    return errors.reshape(len(TIMESTEPS), NOISES).mean(1).cpu().numpy()


def _standardised(losses: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Means over timesteps of losses in deviations from the mean over all pairs."""
    every = np.concatenate(losses)  # (N + M, T)
    centre, width = every.mean(0), np.maximum(every.std(0), 1e-12)
    return [((of - centre) / width).mean(1) for of in losses]
