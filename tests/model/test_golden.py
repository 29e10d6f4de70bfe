"""The reference numbers of the released code, for every case in the folder of reference numbers.

Weights enter through the importer of the authors' format; the recipe is in that folder's README.
"""

import json
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from siamdiff.__main__ import main
from siamdiff.model.diffusion import predict_z_0, q_sample
from siamdiff.model.ldm import authors_key, unet_from_ldm_config
from siamdiff.model.siamese import SiameseDiffusion, StepInputs
from siamdiff.model.single_file import import_authors
from siamdiff.model.unet import decode, encode
from siamdiff.model.weights import read_weights
from siamdiff.sampling.sampler import sample
from siamdiff.sampling.schedulers import ddim_scheduler
from siamdiff.training.losses import siamese_loss, squared_error, weights_at
from tests.model.tiny_sd import networks, save_folder

pytestmark = pytest.mark.golden

DIR = Path(os.environ.get("SIAMDIFF_GOLDEN") or Path(__file__).parents[2].parent / "shared" / "golden")
TAGS = sorted(path.stem for path in DIR.glob("*.json") if path.with_suffix(".npz").is_file())


def rng(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def normal(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(rng(name).standard_normal(shape).astype(np.float32))


def weight(name: str, shape: list[int]) -> Tensor:
    v = normal(name, *shape)
    if len(shape) > 1:
        return v / float(np.sqrt(np.prod(shape[1:])))
    return 0.05 * v + (1.0 if name.endswith("weight") else 0.0)


def mask(tag: str, batch: int, latent: int) -> Tensor:
    g = rng(f"{tag}/mask")
    y = torch.zeros(batch, 3, 8 * latent, 8 * latent)
    for rectangle in y:
        y0, x0 = g.integers(0, 4 * latent, 2)
        y1 = y0 + g.integers(2 * latent, 4 * latent)
        x1 = x0 + g.integers(2 * latent, 4 * latent)
        rectangle[:, y0:y1, x0:x1] = 1.0
    return y


@dataclass(frozen=True)
class Case:
    tag: str
    folder: Path | None = None  # where the model takes the way through our folder and back

    @cached_property
    def facts(self) -> dict:
        return json.loads((DIR / f"{self.tag}.json").read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        with np.load(DIR / f"{self.tag}.npz") as npz:
            return {name: torch.from_numpy(npz[name]) for name in npz.files}

    @cached_property
    def model(self) -> SiameseDiffusion:
        state = {name: weight(name, shape) for name, shape in self.facts["keys"].items()}
        ldm_config = self.facts["config"]
        if self.folder:
            state = there_and_back(state, unet_from_ldm_config(ldm_config), self.folder)
        unet, controlnet = import_authors(state, ldm_config)
        return SiameseDiffusion(unet, controlnet, ddim_scheduler().alphas_cumprod)

    @cached_property
    def inputs(self) -> StepInputs:
        b, n, d = self.facts["batch"], self.facts["latent"], self.facts["config"]["context_dim"]
        image = rng(f"{self.tag}/image").random((b, 3, 8 * n, 8 * n), dtype=np.float32)
        return StepInputs(
            z_0=normal(f"{self.tag}/z0", b, 4, n, n),
            noise=normal(f"{self.tag}/noise", b, 4, n, n),
            t=torch.tensor(self.facts["t"]),
            text=normal(f"{self.tag}/context", b, self.facts["context_len"], d),
            image=torch.from_numpy(image),
            mask=mask(self.tag, b, n),
        )

    def close(self, name: str, ours: Tensor) -> None:
        """README: tensors to 2e-5 of the largest magnitude."""
        theirs = self.tensors[name]
        torch.testing.assert_close(
            ours, theirs, rtol=0.0, atol=2e-5 * theirs.abs().max().item(), msg=lambda m: f"{name}: {m}"
        )


def there_and_back(state: dict[str, Tensor], unet: dict, folder: Path) -> dict[str, Tensor]:
    """The authors' file -> our model folder -> loaded -> the authors' file; VAE and text encoder are made up."""
    parts = networks(text={"hidden_size": unet["cross_attention_dim"]}, **unet, norm_num_groups=32)
    base = save_folder(folder / "base", parts)
    torch.save(state, folder / "merged_pytorch_model.pth")
    for source, target in (("merged_pytorch_model.pth", "model"), ("model", "again.safetensors")):
        assert main(["convert", str(folder / source), str(folder / target), "--base", str(base)]) == 0
    exported = read_weights(folder / "again.safetensors")
    return {name: tensor for name, tensor in exported.items() if name in state}


@pytest.fixture(scope="module", params=TAGS or [None])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param is None:
        pytest.skip(f"no TAG.json with TAG.npz in {DIR}; set SIAMDIFF_GOLDEN to a folder that holds some")
    return Case(request.param)


@pytest.fixture(scope="module", params=["imported", "there and back"])
def either(case: Case, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The case, its weights imported from the authors' format, or imported, exported and imported again."""
    return case if request.param == "imported" else Case(case.tag, tmp_path_factory.mktemp("convert"))


@torch.no_grad()
def test_predictions(either: Case) -> None:
    case = either
    inputs, model = case.inputs, case.model
    late = case.facts["steps"]["late"]
    p = model.predict(inputs, weights_at(late["k"], late["n_iter"]))
    z_t = q_sample(inputs.z_0, inputs.noise, inputs.t, model.alphas_cumprod)
    case.close("z_t", z_t)
    case.close("dhi_mask", model.controlnet.hint(inputs.mask))
    maps = [name for name in case.tensors if name.startswith("c_m.")]
    for name, c in zip(sorted(maps), p.control_mask, strict=True):
        case.close(name, c)
    case.close("eps_m", p.eps_mask)
    case.close("eps_mix", p.eps_mix)
    case.close("z0_prime", predict_z_0(z_t, p.eps_mix, inputs.t, model.alphas_cumprod))
    encoded = encode(model.unet, z_t, inputs.t, inputs.text)
    case.close("eps_none", decode(model.unet, encoded, inputs.text))


@pytest.mark.parametrize(
    ("name", "steps", "guidance"), [("ddim_s50_cfg9", 50, 9.0), ("ddim_s10_cfg1", 10, 1.0)]
)
def test_samples(case: Case, name: str, steps: int, guidance: float) -> None:
    inputs, model = case.inputs, case.model
    uncond = normal(f"{case.tag}/uncond", 1, *inputs.text.shape[1:])
    x_T = normal(f"{case.tag}/x_T", *inputs.z_0.shape)
    unet, controlnet = model.unet, model.controlnet
    z_0 = sample(unet, controlnet, ddim_scheduler(), inputs.mask, inputs.text, uncond, x_T, steps, guidance)
    case.close(name, z_0)


@pytest.mark.parametrize("when", ["early", "late"])
def test_losses_and_gradients(either: Case, when: str) -> None:
    case = either
    inputs, model, step = case.inputs, case.model, case.facts["steps"][when]
    weights = weights_at(step["k"], step["n_iter"])
    assert weights.w_i == pytest.approx(step["w_i"])
    # The released code puts the whole batch through Online-Augmentation and prints the mean over all of it.
    everyone = torch.arange(len(inputs.t))
    model.zero_grad()
    p = model.predict(inputs, weights, active=everyone)
    loss, terms = siamese_loss(p, weights)
    loss.backward()

    printed = {name: pytest.approx(v, rel=1e-4) for name, v in step["printed_unweighted_means"].items()}
    ours = {"mask": "L_m", "image": "L_i", "mask_2_image": "L_c"}
    found = {f"loss_simple_{theirs}": terms[name].item() for theirs, name in ours.items()}
    if p.augmented is not None:
        found["loss_simple_mask_regularization"] = (
            squared_error(p.augmented.eps_mask, inputs.noise).mean().item()
        )
    assert found == printed
    assert terms["L"].item() == pytest.approx(step["loss"], rel=1e-4)

    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    norms = {authors_key(name, model.unet.config): p.grad.norm().item() for name, p in trained.items()}
    assert norms.keys() == step["grad_norm"].keys()
    wrong = {k: (a, b) for k, b in step["grad_norm"].items() if abs((a := norms[k]) - b) > 1e-3 * b + 1e-6}
    assert not wrong


def test_the_default_selection_gives_the_same_loss(case: Case) -> None:
    late = case.facts["steps"]["late"]
    _, terms = case.model(case.inputs, weights_at(late["k"], late["n_iter"]))
    assert terms["L"].item() == pytest.approx(late["loss"], rel=1e-4)
