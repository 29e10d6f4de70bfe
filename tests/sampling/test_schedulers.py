"""Other schedulers than the paper's: images as of diffusers' own pipeline, the same in any batch, by their names."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.schedulers import KarrasDiffusionSchedulers
from pydantic import ValidationError

from siamdiff.model.about import read_schedule
from siamdiff.model.base import encode_prompts
from siamdiff.model.folder import load_model
from siamdiff.sampling.conditions import read_conditions
from siamdiff.sampling.plan import Plan
from siamdiff.sampling.sampler import initial_noise, sample
from siamdiff.sampling.schedulers import RELEASED_DDIM, scheduler_config, scheduler_of
from siamdiff.sampling.shard import ShardSampler
from siamdiff.sections import Gates, Generate
from siamdiff.sections.schedulers import SCHEDULERS, short_name
from tests.tiny_model import RESOLUTION, write_masks, write_model

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates, 16,000 times for one kind
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

STOCHASTIC = {"ddpm", "euler-ancestral", "kdpm2-ancestral"}
# One of each kind: first order, stochastic, several steps, second order. The others are left for `make soak`.
OF_EACH_KIND = {"ddim", "ddpm", "unipc", "heun"}
every_scheduler = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in OF_EACH_KIND else pytest.mark.soak)
        for name in sorted(SCHEDULERS)
    ],
)
BEFORE_SCHEDULERS = {
    "model": "ca0276a4bf53e47e",
    "copy-paste": "effb8f40a81cec93",
}  # digests when ddim was the only one


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(str(tmp_path_factory.mktemp("masks")), 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("model")
    write_model(str(folder / "model"), folder / "base", masks)
    return str(folder / "model")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


def scheduler(folder, name):
    return scheduler_of(scheduler_config(name, read_schedule(folder)))


@pytest.mark.parametrize("name", ["dpmsolver++", "unipc", "euler", "heun", "pndm"])
def test_latents_are_those_of_diffusers_own_pipeline(folder, model, masks, name):
    mask = torch.from_numpy(masks.read(masks.keys()[0]).mask > 127).float().expand(1, 3, -1, -1)
    x_T = initial_noise(0, (1, 4, 4, 4))
    text, uncond = (
        encode_prompts(model.base.tokenizer, model.base.text_encoder, [p]) for p in ("a polyp", "")
    )
    ours = sample(model.unet, model.control, scheduler(folder, name), mask, text, uncond, x_T, 6, 9.0)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler(folder, name)
    settings = {"num_inference_steps": 6, "guidance_scale": 9.0, "output_type": "latent"}
    theirs = pipeline("a polyp", image=mask, latents=x_T, **settings).images
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def images(model, masks, folder, name, **settings):
    """The images of a shard of four."""
    chosen = Generate(scheduler=name, fold_masks=["real"], steps=4, shard_size=4, **settings)
    digests = {"masks": masks.digest, "model": model.info["model_digest"]}
    config = scheduler_config(name, read_schedule(folder))
    plan = Plan.of(chosen, **digests, resolution=RESOLUTION, scheduler=config)
    conditions = read_conditions(masks, plan, next(plan.shards(masks.keys("train"))))
    made = ShardSampler(model, plan).make(conditions).samples
    assert all(sample.meta.synthetic.sampler["name"] == name for sample in made)
    return np.stack([sample.decode().image for sample in made]).astype(int)


@every_scheduler
def test_a_sample_is_the_same_in_any_batch(model, masks, folder, name):
    whole, apart = (images(model, masks, folder, name, batch_size=size) for size in (4, 1))
    assert np.abs(whole - apart).max() <= 1
    assert np.abs(whole - images(model, masks, folder, name, batch_size=4)).max() == 0
    assert (np.abs(whole - images(model, masks, folder, "ddim", batch_size=4)).max() > 1) == (name != "ddim")


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_the_noise_of_a_step_is_the_samples_own(model, masks, folder, name):
    one, other = (images(model, masks, folder, name, seed=seed) for seed in (0, 1))
    assert np.abs(one - other).max() > 1


def test_names_are_diffusers_own_and_all_but_two_that_fit_are_there():
    assert all(hasattr(diffusers, kind) for kind in SCHEDULERS.values())
    fitting = {kind.name for kind in KarrasDiffusionSchedulers}
    assert fitting - set(SCHEDULERS.values()) == {"DPMSolverSDEScheduler", "EDMEulerScheduler"}


@pytest.mark.parametrize("given", ["unipc", "UniPC", "UniPCMultistepScheduler", "unipcmultistepscheduler"])
def test_a_scheduler_is_named_in_short_or_by_its_class(given):
    assert Generate(scheduler=given).scheduler == short_name(given) == "unipc"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValidationError, match=r"'dpmsolver'; give dpmsolver\+\+ or"):
        Generate(scheduler="dpmsolver")


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_a_configuration_is_whole_survives_json_and_has_the_bases_noise(name):
    config = scheduler_config(
        name, {"beta_start": 0.001, "beta_end": 0.02, "beta_schedule": "linear", "other": 1}
    )
    assert json.loads(json.dumps(config)) == config
    assert (config["beta_start"], config["beta_schedule"]) == (0.001, "linear") and "other" not in config
    made = scheduler_of(config)
    assert type(made).__name__ == SCHEDULERS[name]
    if isinstance(made, DDIMScheduler):
        assert {key: config[key] for key in RELEASED_DDIM} == RELEASED_DDIM


def plan(name="ddim", scheduler=None, **settings):
    return Plan.of(
        Generate(scheduler=name, **settings),
        masks="m" * 64,
        model="d" * 64,
        resolution=64,
        scheduler=scheduler,
    )


def test_the_scheduler_and_its_configuration_are_of_the_plan():
    unipc = scheduler_config("unipc", {"beta_start": 0.001})
    assert (
        len({plan().digest, plan("unipc", unipc).digest, plan("unipc", unipc | {"solver_order": 3}).digest})
        == 3
    )
    again = Plan.model_validate_json(plan("unipc", unipc).model_dump_json())
    assert again.digest == plan("unipc", unipc).digest


def test_plans_of_the_papers_sampler_kept_their_digest():
    no_gates = Gates(copies=False, min_deviation=0, max_saturated=1)
    assert plan(gates=no_gates).digest == BEFORE_SCHEDULERS["model"]
    copies = Generate(fold_masks=["real"], method="copy-paste")
    of_copies = Plan.of(copies, masks="m" * 64, model="copy-paste", resolution=64)
    assert of_copies.digest == BEFORE_SCHEDULERS["copy-paste"]
