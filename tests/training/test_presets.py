"""Every preset trains: which losses it has, which parameters move."""

import json
from pathlib import Path

import pytest
import torch

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.model.base import load_base
from siamdiff.model.build import build_model
from siamdiff.model.folder import load_model
from siamdiff.presets import PRESETS
from siamdiff.run import lease
from siamdiff.training import bases
from siamdiff.training.context import SingleProcess
from siamdiff.training.engine import TorchEngine
from siamdiff.training.loop import train
from siamdiff.training.losses import weights_at
from tests.sets import write_phantoms

LOSSES = {
    "ours": "L_m L_i L_c L_m_prime",
    "table5-1": "L_m",
    "table5-2": "L_m",
    "table5-3": "L_m L_i L_m_prime",
    "table5-4": "L_m L_i L_c",
    "table5-5": "L_m L_i L_c L_m_prime",
    "table5-6": "L_m L_i L_m_prime",
    "table5-7": "L_m L_i L_c",
    "table6-0": "L_m",
    "table6-0.5": "L_m L_i L_c L_m_prime",
    "table6-1": "L_m L_i L_c L_m_prime",
    "table6-1.5": "L_m L_i L_c L_m_prime",
    "table6-2": "L_m L_i L_c L_m_prime",
    "t2i-adapter": "L_m",
}
DENSE = {"ours", "table5-2", "table5-6", "table5-7", "table6-0.5", "table6-1", "table6-1.5", "table6-2"}
DECODER = {"up_blocks", "conv_norm_out", "conv_out"}
CONTROLNET = {
    *("conv_in", "time_embedding", "down_blocks", "mid_block"),
    *("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"),
}


def configure(root: Path, preset: str) -> Config:
    """Five steps of four samples; no weight decay, so that what moves has a gradient."""
    settings = {"steps": 5, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.0}
    settings |= {"augment_timesteps": 999, "log_steps": 1, "loader_workers": 0, "engine": "torch"}
    fields = {
        "data": {"resolution": 32, "prompt": "a polyp"},
        "model": {"vae_steps": 2, "unet_steps": 2},
        "train": settings,
        "generate": {"steps": 1, "guidance": 1.0},
    }
    return Config.model_validate({"root": str(root), "preset": preset, **fields}).resolve()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set and a base that every preset shares."""
    folder = tmp_path_factory.mktemp("root")
    write_phantoms(str(folder / "data"))
    bases.prepare_base(configure(folder, "ours"))
    return folder


def run(config: Config) -> None:
    base = bases.prepare_base(config)
    with lease(config.run_uri()) as held:
        train(config, base, held, SingleProcess(torch.device("cpu")), TorchEngine.of)


def moved(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    """Names of the direct children of which every parameter is another than before; of the others none is."""
    earlier, later = dict(before.named_parameters()), dict(after.named_parameters())
    assert earlier.keys() == later.keys()
    same, other = set(), set()
    for name, p in earlier.items():
        (same if torch.equal(p, later[name]) else other).add(name.split(".")[0])
    assert not same & other
    return other


def test_every_preset_is_here() -> None:
    assert LOSSES.keys() == PRESETS.keys()


ALWAYS = {"ours", "table5-1", "table6-0", "t2i-adapter"}


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[] if name in ALWAYS else [pytest.mark.soak]) for name in LOSSES]
)
def test_a_preset_trains_with_its_losses_and_moves_its_parameters(preset: str, root: Path) -> None:
    config = configure(root, preset)
    base = load_base(bases.prepare_base(config))
    torch.manual_seed(config.train.seed)
    start = build_model(config, base)
    storage.delete_folder(config.run_uri())  # of a preset with the same settings
    run(config)

    lines = storage.read_bytes(f"{config.run_uri()}/metrics.jsonl").splitlines()
    rows = [json.loads(line) for line in lines]
    names = LOSSES[preset].split()
    assert len(rows) == 5
    for row in rows:
        assert row.keys() & {"L_m", "L_i", "L_c", "L_m_prime", "L"} == {*names, "L"}
        assert row["L"] == pytest.approx(sum(row[name] for name in names), rel=1e-5)
    if "L_m_prime" in names:
        assert [row["L_m_prime"] > 0 for row in rows] == [weights_at(k, 5).augment for k in range(5)]

    end = load_model(f"{config.run_uri()}/model")
    adapted = preset == "t2i-adapter"
    assert moved(start.unet, end.unet) == (set() if adapted else DECODER)
    assert moved(start.control, end.control) == ({"adapter"} if adapted else CONTROLNET)
    assert moved(base.vae, end.base.vae) == moved(base.text_encoder, end.base.text_encoder) == set()
    if not adapted:
        assert hasattr(end.control.controlnet_cond_embedding, "stages") == (preset in DENSE)
