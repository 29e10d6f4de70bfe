"""The stream by any number of workers, micro-batches, shards and reading processes: the same samples and draws."""

from pathlib import Path

import pytest
import torch

from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Batch, Stream, StreamDataset, load_batches, split
from tests.sets import write_phantoms

STEPS = (1, 4)  # from the middle of an epoch over its end


def batches(
    shard_set: ShardSet,
    batch_size: int,
    world_size: int = 1,
    micro_batch: int | None = None,
    loader_workers: int = 0,
    ranks: range | None = None,
) -> list[list[Batch]]:
    """What each worker gets, or some of them."""
    stream = Stream(tuple(shard_set.keys("train")), seed=3, batch_size=batch_size)
    dataset = StreamDataset(shard_set, stream, (4, 4, 4), num_timesteps=1000, prompt_drop=0.5)
    of_worker = {"world_size": world_size, "loader_workers": loader_workers, "pin_memory": False}
    size, _ = split(batch_size, world_size, micro_batch)
    first, last = STEPS
    return [
        list(
            load_batches(dataset, first_step=first, last_step=last, rank=rank, micro_batch=size, **of_worker)
        )
        for rank in ranks or range(world_size)
    ]


def by_position(workers: list[list[Batch]]) -> dict[int, tuple[str, str, list[bytes]]]:
    """Key, prompt and the bits of everything else, of each sample that counts; no position comes twice."""
    found = {}
    for batch in (batch for worker in workers for batch in worker):
        for i, position in enumerate(batch.positions):
            if batch.weight is None or batch.weight[i] > 0:
                assert position not in found
                tensors = (batch.image, batch.mask, batch.t, batch.noise, batch.posterior_noise)
                bits = [tensor[i].numpy().tobytes() for tensor in tensors]
                found[position] = (batch.keys[i], batch.prompts[i], bits)
    return found


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Ten samples in one shard: fewer shards than workers."""
    return write_phantoms(str(tmp_path_factory.mktemp("one-shard")), shard_size=10)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "micro_batch", "expected"),
    [
        (48, 1, None, (48, 1)),
        (48, 7, None, (7, 1)),
        (48, 7, 2, (2, 4)),
        (48, 6, 5, (4, 2)),  # 4 + 4 rather than 5 + 3
        (48, 6, 99, (8, 1)),
        (5, 5, 1, (1, 1)),
    ],
)
def test_a_share_is_split_evenly(
    batch_size: int, world_size: int, micro_batch: int | None, expected: tuple[int, int]
) -> None:
    assert split(batch_size, world_size, micro_batch) == expected


def test_a_split_fits_and_repeating_it_changes_nothing() -> None:
    for batch_size in range(1, 30):
        for world_size in range(1, batch_size + 1):
            for micro_batch in (None, *range(1, batch_size + 1)):
                size, accumulation = split(batch_size, world_size, micro_batch)
                share = -(-batch_size // world_size)
                assert share <= size * accumulation < share + accumulation
                assert size <= (micro_batch or share)
                assert split(batch_size, world_size, size) == (size, accumulation)


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
@pytest.mark.parametrize("world_size", [2, 3, 4, 5, 6])
def test_any_number_of_workers_takes_the_same_batch(
    phantoms: ShardSet, world_size: int, micro_batch: int | None
) -> None:
    one, found = batches(phantoms, 6), batches(phantoms, 6, world_size, micro_batch)
    expected, got = by_position(one), by_position(found)
    assert sorted(got) == list(range(6, 24))
    assert got == expected

    size, accumulation = split(6, world_size, micro_batch)
    assert {len(batch.keys) for worker in found for batch in worker} == {size}
    assert {len(worker) for worker in found} == {accumulation * (STEPS[1] - STEPS[0])}


@pytest.mark.parametrize(("world_size", "micro_batch"), [(4, None), (4, 1), (5, 2), (2, 2)])
def test_weighted_means_over_workers_are_means_over_the_batch(
    phantoms: ShardSet, world_size: int, micro_batch: int | None
) -> None:
    workers = batches(phantoms, 6, world_size, micro_batch)
    _, accumulation = split(6, world_size, micro_batch)
    for step in range(STEPS[1] - STEPS[0]):
        taken = [
            batch for worker in workers for batch in worker[step * accumulation : (step + 1) * accumulation]
        ]
        means = [(batch.weight * batch.t).mean() for batch in taken if batch.weight is not None]
        assert len(means) == len(taken)
        whole = batches(phantoms, 6)[0][step]
        torch.testing.assert_close(torch.stack(means).mean(), whole.t.float().mean())
        positions = [position for batch in taken for position in batch.counted()[0]]
        assert (positions, whole.counted()[1]) == (
            whole.positions,
            [key for batch in taken for key in batch.counted()[1]],
        )


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, None), (1, 4), (2, 3), (3, 1), (6, None)])
def test_nothing_is_weighed_where_the_batch_divides(
    phantoms: ShardSet, world_size: int, micro_batch: int | None
) -> None:
    workers = batches(phantoms, 6, world_size, micro_batch)
    assert all(batch.weight is None for worker in workers for batch in worker)


@pytest.mark.parametrize("shard_size", [1, 3])
def test_the_number_of_shards_changes_nothing(phantoms: ShardSet, tmp_path: Path, shard_size: int) -> None:
    other = write_phantoms(str(tmp_path), shard_size=shard_size)
    assert by_position(batches(other, 6, 4)) == by_position(batches(phantoms, 6))


def test_reading_processes_change_nothing(phantoms: ShardSet) -> None:
    read = by_position(batches(phantoms, 6, 4, micro_batch=1, loader_workers=2, ranks=range(1)))
    assert len(read) == 6 and read.items() <= by_position(batches(phantoms, 6)).items()
