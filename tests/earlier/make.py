"""Keeps what this version writes, for the versions after it to be tested with.

    python -m tests.earlier.make

writes tests/earlier/VERSION.tar.xz: a base, a set of phantoms, a run stopped half-way, one that is done, and a
synthetic set. Made once for each version that is given out, and never again.
"""

import tarfile
import tempfile
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from siamdiff import __version__
from siamdiff.config import Config
from tests import jobs
from tests.sets import small_config, write_phantoms
from tests.tiny_model import write_base

FOLDER = Path(__file__).parent


def configure(root: Path, run: str, **train: float) -> Config:
    """Of the jobs whose outputs are kept: one process, networks of a few thousand parameters."""
    return small_config(
        str(root),
        model={"base": str(root / "base"), "hint_channels": (4, 4, 8, 8, 16)},
        train={"run": run, "steps": 6, "checkpoint_steps": 2, "ema_decay": 0.9, **train},
        generate={"folds": 2, "fold_masks": ["real", "random"], "shard_size": 5, "limit": 4},
    )


def write_root(root: Path) -> None:
    """What is kept."""
    write_phantoms(f"{root}/data")
    write_base(root / "base")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(4, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=16,
        attention_head_dim=2,
    ).save_pretrained(root / "base" / "unet")
    half, done = configure(root, "half", budget_hours=1e-9), configure(root, "done")
    for job, config, code in (("train", half, 1), ("train", done, 0), ("generate", done, 0)):
        result = jobs.run(job, "--config", jobs.config_file(config, root))
        assert result.returncode == code, result.stderr


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without what nothing reads again, and what tells of the machine."""
    dropped = ("/logs", "lease.json", "/done/checkpoints", "/synthetic/cache", "/tensorboard")
    member.uname = member.gname = ""
    return None if member.name.endswith(dropped) else member


def main() -> None:
    """Writes the archive."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / __version__
        root.mkdir()
        write_root(root)
        with tarfile.open(FOLDER / f"{__version__}.tar.xz", "w:xz") as archive:
            archive.add(root, arcname=__version__, filter=_kept)


if __name__ == "__main__":
    main()
