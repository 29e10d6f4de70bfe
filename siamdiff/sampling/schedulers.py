"""Schedulers of diffusers on the noise schedule of a base: DDIM as in the paper, or another one by its name.

Of a base's own scheduler only the noise schedule counts. Spacing of timesteps, order and the rest are the sampler's:
the released code's for DDIM, else what diffusers' class is made with by default, and OPTIONS.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import diffusers
from diffusers import DDIMScheduler, SchedulerMixin

from siamdiff.model.diffusion import SD15_SCHEDULE
from siamdiff.sections.schedulers import SCHEDULERS

# Timesteps 981, 961, ..., 1 for 50 steps, the last one stepping to abar_0: the released code's DDIM.
RELEASED_DDIM = {
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}

# What a latent model needs beside diffusers' defaults, which are partly those of a model of pixels.
OPTIONS: dict[str, dict[str, Any]] = {
    "ddpm": {"clip_sample": False, "steps_offset": 1},  # latents are not bounded by 1
    "dpmsolver++-singlestep": {"lower_order_final": True},  # else it changes this itself, with a warning
    "pndm": {"skip_prk_steps": True, "steps_offset": 1},  # as Stable Diffusion 1.x came
}

NOISE_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


def ddim_scheduler(config: Mapping[str, Any] = SD15_SCHEDULE) -> DDIMScheduler:
    """The paper's sampler for a base's noise schedule, given as the configuration of any diffusers scheduler."""
    return DDIMScheduler.from_config(dict(config), **RELEASED_DDIM)


def scheduler_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration of a scheduler, defaults of diffusers included, as JSON holds it.

    Args:
        name: short name, of SCHEDULERS.
        config: of any diffusers scheduler on the base's noise schedule; all else in it is left out.
    """
    schedule = {key: config[key] for key in NOISE_SCHEDULE if key in config}
    kind: Any = getattr(diffusers, SCHEDULERS[name])
    own = RELEASED_DDIM if kind is DDIMScheduler else OPTIONS.get(name, {})
    made: Any = kind.from_config(schedule, **own)
    whole = json.loads(made.to_json_string())
    # An infinite limit is none, and JSON has no infinity. Which version it is, markers say.
    return {
        key: value
        for key, value in whole.items()
        if (not key.startswith("_") or key == "_class_name")
        and not (isinstance(value, float) and math.isinf(value))
    }


def scheduler_of(config: Mapping[str, Any]) -> SchedulerMixin:
    """The scheduler of a configuration that `scheduler_config` gave."""
    return cast(SchedulerMixin, getattr(diffusers, config["_class_name"]).from_config(dict(config)))


def passes(name: str, num_steps: int) -> int:
    """How often the networks are asked in `num_steps` steps of a scheduler: of second order nearly twice in each."""
    scheduler: Any = scheduler_of(scheduler_config(name, SD15_SCHEDULE))
    scheduler.set_timesteps(num_steps)
    return len(scheduler.timesteps)
