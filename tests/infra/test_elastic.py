"""Two workers, then one, then two again, under DeepSpeed: the run of two that nothing happened to."""

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from infra import universal
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Stream, StreamDataset, load_batches, split
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.training.losses import weights_at
from tests.sets import write_phantoms
from tests.training.reference import tiny_inputs, tiny_model

N, K = 30, 20  # from a step after N / 3 on: every loss term is there
TIMESTEPS = [
    150,
    700,
    300,
    999,
    100,
]  # two workers, two samples a pass: the second one's second pass has weight 0
MICRO_BATCH = 2
STOPS = (2, 4, 6)  # steps after which another number of workers goes on
Run = tuple[int, str, bool]  # ZeRO stage, precision, whether the optimizer lies in main memory


def join(rank: int, world_size: int, port: int) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in place.items()}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)


def engine(run: Run, world_size: int) -> Any:
    from infra.zero import DeepSpeedEngine

    size, accumulation = split(len(TIMESTEPS), world_size, MICRO_BATCH)
    return DeepSpeedEngine(
        tiny_model(dtype=torch.float32),
        zero_stage=run[0],
        learning_rate=1e-3,
        weight_decay=0.01,
        micro_batch=size,
        accumulation=accumulation,
        precision=run[1],
        ema_decay=0.5,
        offload_optimizer=run[2],
    )


def steps(trained: Any, folder: Path, rank: int, world_size: int, first: int, last: int) -> torch.Tensor:
    """This worker's loss terms (steps, terms), means over its passes."""
    shard_set = ShardSet.open(str(folder / "data"))
    stream = Stream(tuple(shard_set.keys("train")), seed=0, batch_size=len(TIMESTEPS))
    dataset = StreamDataset(shard_set, stream, (4, 4, 4), num_timesteps=1000, prompt_drop=0.0)
    losses = []
    for k in range(first, last):
        inputs = tiny_inputs(TIMESTEPS, seed=k, dtype=torch.float32)
        of_step = []
        for batch in load_batches(
            dataset,
            first_step=k,
            last_step=k + 1,
            rank=rank,
            world_size=world_size,
            micro_batch=MICRO_BATCH,
            loader_workers=0,
            pin_memory=False,
        ):
            places = [position % len(TIMESTEPS) for position in batch.positions]
            rows = {name: value[places] for name, value in vars(inputs).items() if value is not None}
            mine = dataclasses.replace(inputs, **rows, weight=batch.weight)
            loss, terms = trained.forward(mine, weights_at(K + k, N))
            trained.backward(loss)
            trained.step()
            of_step.append(torch.stack(list(terms.values())))
        losses.append(torch.stack(of_step).mean(dim=0))
    return torch.stack(losses)


def weights(trained: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Those that train, and their averages."""
    return trained.full_weights(), trained.full_weights(averaged=True)


def place_of(folder: Path, run: Run) -> Path:
    return folder / "-".join(map(str, run))


def worker(rank: int, world_size: int, port: int, folder: Path, runs: list[Run], part: int) -> None:
    """Goes on with each run from the stop before `part` to the one after it, on its first part to the end as well."""
    join(rank, world_size, port)
    first, last = (0, *STOPS)[part : part + 2]
    for run in runs:
        place = place_of(folder, run)
        trained = engine(run, world_size)
        if part:
            trained.load(place / str(first), 3 - world_size)
        losses = steps(trained, folder, rank, world_size, first, last)
        write = trained.snapshot(place / str(last))
        if not part:
            whole = torch.cat([losses, steps(trained, folder, rank, world_size, last, STOPS[-1])])
            torch.save((whole, *weights(trained)), place.with_suffix(f".whole-{rank}"))
        write()
        torch.save((losses, *weights(trained)), place.with_suffix(f".{part}-{rank}"))
    torch.distributed.destroy_process_group()


def parts(_index: int, folder: Path, runs: list[Run]) -> None:
    """Two workers, one, two: forks of a process that has imported everything."""
    import deepspeed  # noqa: F401

    import infra.zero  # noqa: F401

    for part, world_size in enumerate((2, 1, 2)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (world_size, port, folder, runs, part)
        mp.start_processes(worker, arguments, nprocs=world_size, start_method="fork")


def train_in_parts(folder: Path, runs: list[Run]) -> None:
    write_phantoms(str(folder / "data"))
    mp.spawn(parts, args=(folder, runs), nprocs=1)


def check(folder: Path, run: Run, rtol: float) -> None:
    """Losses and final weights against those of two workers throughout."""
    place = place_of(folder, run)

    def mean(part: str, world_size: int) -> torch.Tensor:
        losses = [torch.load(place.with_suffix(f".{part}-{rank}"))[0] for rank in range(world_size)]
        return torch.stack(losses).mean(dim=0)

    found = torch.cat([mean("0", 2), mean("1", 1), mean("2", 2)])
    torch.testing.assert_close(found, mean("whole", 2), rtol=rtol, atol=rtol / 10)
    whole, last = (torch.load(place.with_suffix(f".{part}-0"))[1:] for part in ("whole", "2"))
    torch.testing.assert_close(last, whole, rtol=rtol, atol=rtol)


@pytest.mark.soak
@pytest.mark.cluster
def test_a_run_goes_on_with_fewer_workers_and_with_more(tmp_path: Path) -> None:
    run = (2, "fp32", False)
    train_in_parts(tmp_path, [run])
    check(tmp_path, run, 1e-4)


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_a_run_goes_on_with_fewer_workers_and_with_more_at_every_stage(tmp_path: Path) -> None:
    """bf16 last, since DeepSpeed keeps autocast on in a process."""
    exact = [(0, "fp32", False), (1, "fp32", False), (3, "fp32", False), (2, "fp32", True), (3, "fp32", True)]
    rounded = [(0, "bf16", False), (1, "bf16", False), (2, "bf16", False), (3, "bf16", False)]
    train_in_parts(tmp_path, exact + rounded)
    for run in exact:
        check(tmp_path, run, 1e-4)
    for run in rounded:
        check(tmp_path, run, 2e-3)


def test_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"no checkpoint")
    with pytest.raises(SiamdiffError, match="go on with as many as wrote it") as caught:
        universal.converted(tmp_path, "state")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / universal.UNIVERSAL).exists()


def test_no_space_for_the_conversion_is_told_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with open(tmp_path / "state" / "optim_states.pt", "wb") as file:
        file.truncate(1 << 43)  # a file with a hole: it takes no space
    with pytest.raises(UserError, match="set SIAMDIFF_CACHE"):
        universal.converted(tmp_path, "state")
