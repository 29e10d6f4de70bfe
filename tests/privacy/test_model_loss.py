"""Whether the model gives its training pairs away."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from siamdiff.data.shardset import ShardSet
from siamdiff.model.base import load_base
from siamdiff.model.folder import load_model
from siamdiff.privacy.model_loss import TIMESTEPS, model_membership
from siamdiff.privacy.neighbours import Real
from siamdiff.privacy.spaces import Views
from tests.privacy.sets import phantoms, real_set
from tests.tiny_model import write_model

MEMBERS, HELD_OUT = 10, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ShardSet]:
    """A model of random weights that says it was trained on a set."""
    folder = tmp_path_factory.mktemp("model")
    real = real_set(f"{folder}/data", phantoms(MEMBERS + HELD_OUT, side=32), HELD_OUT)
    write_model(f"{folder}/model", folder / "base", real)
    return f"{folder}/model", real


def listed(real: ShardSet) -> Real:
    """Its images without what other checks need."""
    keys = [*real.keys("train"), *real.keys("val")]
    views = Views(np.empty((len(keys), 0)), np.empty((0, len(keys), 0)))
    return Real(keys, [key[:3] for key in keys], len(real.keys("train")), views, frozenset(), 0)


def test_a_model_that_saw_nothing_gives_nothing_away(made: tuple[str, ShardSet]):
    uri, real = made
    found = model_membership(uri, real, listed(real), 200, 0, "cpu")
    (attack,) = found.attacks
    assert (attack.members, attack.others) == (MEMBERS, HELD_OUT)
    assert attack.low <= 0.5 and found.verdict == "look" and "fewer than 30 images" in found.said
    assert model_membership(uri, real, listed(real), 200, 0, "cpu") == found


def test_no_more_pairs_are_asked_about_than_may_be(made: tuple[str, ShardSet]):
    uri, real = made
    (attack,) = model_membership(uri, real, listed(real), 3, 0, "cpu").attacks
    assert (attack.members, attack.others) == (3, 3)


def test_another_set_than_the_models_is_not_asked_about(made: tuple[str, ShardSet], tmp_path: Path):
    uri, _ = made
    other = real_set(f"{tmp_path}/data", phantoms(6, seed=4, side=32), 2)
    found = model_membership(uri, other, listed(other), 200, 0, "cpu")
    assert found.verdict == "not done" and "another set" in found.said


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_model_that_learnt_its_pairs_by_heart_gives_them_away(tmp_path: Path):
    """UNet and control trained on eight pairs, at the timesteps that are asked about, until they know them."""
    from safetensors.torch import load_file, save_file

    from siamdiff.model.diffusion import q_sample
    from siamdiff.model.folder import read_info
    from siamdiff.sampling.predictor import predictor
    from siamdiff.training.encoders import image_moments, signed_images

    real = real_set(f"{tmp_path}/data", phantoms(MEMBERS + 30, side=32), 30)
    uri = f"{tmp_path}/model"
    write_model(uri, tmp_path / "base", real)
    model = load_model(uri)
    samples = [real.read(key) for key in real.keys("train")]
    images = signed_images(torch.from_numpy(np.stack([sample.image for sample in samples])))
    scale = model.vae.config["scaling_factor"]
    z_0 = torch.stack([image_moments(model.base, image)[0] for image in images]) * scale
    masks = torch.from_numpy(np.stack([sample.mask > 127 for sample in samples]))
    hint = masks[:, None].expand(-1, 3, -1, -1).float()
    text = torch.zeros(len(samples), 8, 16)
    learnt = [*model.unet.parameters(), *model.control.parameters()]
    for parameter in learnt:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learnt, 3e-3)
    alphas = model.base.scheduler.alphas_cumprod
    torch.manual_seed(0)
    for _ in range(400):
        t = torch.tensor(TIMESTEPS)[torch.randint(len(TIMESTEPS), (len(samples),))]
        noise = torch.randn_like(z_0)
        predict = predictor(model.unet, model.control, hint, 1)
        loss = (predict(q_sample(z_0, noise, t, alphas), t, text) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for part, network in (("unet", model.unet), ("controlnet", model.control)):
        (file,) = (Path(uri) / part).glob("*.safetensors")
        assert load_file(file).keys() == network.state_dict().keys()
        save_file({name: value.detach().clone() for name, value in network.state_dict().items()}, file)
    from siamdiff.model.base import folder_digest

    info = read_info(uri) | {"model_digest": folder_digest(Path(uri))}
    Path(uri, "siamdiff.json").write_text(json.dumps(info))
    assert load_base(uri)
    (attack,) = model_membership(uri, real, listed(real), 200, 0, "cpu").attacks
    assert attack.auc > 0.8, attack
