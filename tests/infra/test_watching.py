"""Validation loss and previews between training steps under ZeRO: the same values on both workers as in one process."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.model.base import load_base
from siamdiff.model.build import build_model
from siamdiff.model.siamese import StepInputs
from siamdiff.sections import Precision
from siamdiff.training.context import Context, SingleProcess
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.engine import Engine, TorchEngine
from siamdiff.training.losses import weights_at
from siamdiff.training.previews import DISTANCE, Previews
from siamdiff.training.validation import Validation
from tests.infra.test_zero import engine, join
from tests.tiny_model import RESOLUTION, TOKENS, write_base, write_masks

CASES: list[tuple[int, Precision]] = [
    (3, "fp32"),
    (2, "bf16"),
    (3, "bf16"),
]  # bf16 last, see tests.infra.test_zero
STEPS = 3


class GlooWorker(SingleProcess):
    """One of two processes that have met."""

    def __init__(self, rank: int) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.world_size = rank, 2

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None, None]
        torch.distributed.all_gather_object(values, value)
        return values


def configured(root: Path, precision: Precision) -> Config:
    return Config.model_validate(
        {
            "root": str(root),
            "model": {"base": str(root / "base"), "hint_channels": (4, 4, 8, 8, 16)},
            "data": {"resolution": RESOLUTION, "uri": str(root / "data")},
            "train": {"precision": precision, "preview_samples": 6, "run": precision},
            "generate": {"steps": 2, "guidance": 2.0},
        }
    ).resolve()


def inputs(step: int, part: slice) -> StepInputs:
    """A part of a batch of four."""
    generator = torch.Generator().manual_seed(step)
    whole = {
        "z_0": torch.randn(4, 4, 4, 4, generator=generator),
        "noise": torch.randn(4, 4, 4, 4, generator=generator),
        "t": torch.tensor([100, 900, 300, 600]),
        "text": torch.randn(4, TOKENS, 16, generator=generator),
        "image": torch.rand(4, 3, RESOLUTION, RESOLUTION, generator=generator),
        "mask": (torch.rand(4, 3, RESOLUTION, RESOLUTION, generator=generator) > 0.5).float(),
    }
    return StepInputs(**{name: value[part] for name, value in whole.items()})


def looks(
    config: Config, context: Context, part: slice, make_engine: Any
) -> list[tuple[float | None, float]]:
    """Validation loss and distance after each of some steps."""
    base = load_base(config.model.base)
    torch.manual_seed(0)
    model = build_model(config, base).train()
    trained: Engine = make_engine(model)
    assert config.data.uri
    given = config, ShardSet.open(config.data.uri), FrozenEncoders(base, context.device), context
    validation, previews = Validation(*given), Previews(*given)
    found = []
    for step in range(STEPS):
        loss, _ = trained.forward(inputs(step, part), weights_at(20 + step, 30))
        trained.backward(loss)
        trained.step()
        found.append((validation.loss(model), previews.draw(model, step + 1)[DISTANCE]))
    return found


def worker(rank: int, port: int, root: str) -> None:
    join(rank, port)
    for stage, precision in CASES:
        config = configured(Path(root), precision)
        half = slice(2 * rank, 2 * rank + 2)
        found = looks(
            config, GlooWorker(rank), half, lambda model, case=(stage, precision): engine(model, *case)
        )
        torch.save(found, Path(root, f"{stage}-{precision}-{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers found, beside the set and the base that they found it on."""
    folder = tmp_path_factory.mktemp("root")
    write_masks(str(folder / "data"), 9, splits=("train", "val"))
    write_base(folder / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, args=(port, str(folder)), nprocs=2)
    return folder


@pytest.mark.soak
@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_workers_see_what_one_process_sees_whatever_zero_has_spread(
    root: Path, stage: int, precision: Precision
) -> None:
    first, second = (torch.load(root / f"{stage}-{precision}-{rank}.pt") for rank in (0, 1))
    assert first == second
    one = looks(
        configured(root, precision),
        SingleProcess(torch.device("cpu")),
        slice(None),
        lambda model: TorchEngine(
            model, learning_rate=1e-3, weight_decay=0.0, accumulation=1, precision=precision
        ),
    )
    close = {"fp32": 1e-4, "bf16": 2e-2}[precision]
    for (loss, distance), (expected, expected_distance) in zip(first, one, strict=True):
        assert loss == pytest.approx(expected, rel=close)
        assert distance == pytest.approx(expected_distance, rel=10 * close)  # of images rounded to 8 bits
