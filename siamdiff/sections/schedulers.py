"""The names of the schedulers that sampling takes. Imports nothing, so that a configuration stays quick to read."""

import difflib

# Short names, and diffusers' classes: all of KarrasDiffusionSchedulers, which any Stable Diffusion takes, but
# DPMSolverSDEScheduler, whose noise is not one stream per sample, and EDMEulerScheduler, for networks of another kind.
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "dpmsolver++-singlestep": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
    "kdpm2-ancestral": "KDPM2AncestralDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
DDIM = "ddim"  # the paper's


def short_name(name: str) -> str:
    """The short name of a scheduler given by that or by diffusers' class, in any case.

    Raises:
        ValueError: neither; names the nearest ones.
    """
    known = {short: short for short in SCHEDULERS} | {
        kind.lower(): short for short, kind in SCHEDULERS.items()
    }
    found = known.get(name.lower())
    if found is None:
        close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        nearest = list(dict.fromkeys(known[match] for match in close)) or list(SCHEDULERS)
        raise ValueError(
            f"no scheduler that fits the model is called {name!r}; give {' or '.join(nearest)}, or the class in "
            "diffusers of one of these (docs/generate.md lists all)"
        )
    return found
