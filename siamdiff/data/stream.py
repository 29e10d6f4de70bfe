"""The training stream: one endless order of samples with their random draws, the same for any number of workers.

Epoch after epoch a seeded permutation of the split; step k consumes positions [k B, (k + 1) B). Timestep, noises and
prompt dropping of a sample are drawn from (seed, position). So resume, other worker counts and the log of sample keys
are exact by construction: there is no state besides the number of the next step.

A batch is spread over any number of workers. Where it does not divide, workers fill up with samples of weight 0, and
the others weigh so much more that means over micro-batches and workers are means over the batch.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError

_ORDER, _DRAWS = 0, 1  # streams of random numbers under one seed


@dataclass(frozen=True)
class Draws:
    """Random numbers of one position."""

    t: int  # timestep, 0 ... num_timesteps - 1
    noise: np.ndarray  # eps, (4, H/8, W/8) float32, standard normal
    posterior_noise: np.ndarray  # of the VAE's posterior, same shape
    drop_prompt: bool


@dataclass(frozen=True)
class Stream:
    """Which sample stands at a position, and which positions a worker takes in a step: any number of workers.

    Args:
        keys: sorted keys of the split, not empty.
        seed: seed of order and draws.
        batch_size: B, over all workers.
    """

    keys: tuple[str, ...]
    seed: int
    batch_size: int

    def key_at(self, position: int) -> str:
        """The sample at a position, 0 <= position."""
        epoch, place = divmod(position, len(self.keys))
        return self.keys[_permutation(self.seed, epoch, len(self.keys))[place]]

    def positions(self, step: int, rank: int, world_size: int) -> range:
        """Positions of worker `rank` in `step`, at least one; the first ranks take one more where B / W is no integer.

        Args:
            step: from 0.
            rank: 0 ... world_size - 1.
            world_size: W, at most B.
        """
        share, more = divmod(self.batch_size, world_size)
        first = step * self.batch_size + rank * share + min(rank, more)
        return range(first, first + share + (rank < more))

    def draws(self, position: int, shape: Sequence[int], num_timesteps: int, prompt_drop: float) -> Draws:
        """The random numbers of a position, a function of (seed, position) alone.

        Args:
            position: place in the stream.
            shape: of one latent, (4, H/8, W/8).
            num_timesteps: of the noise schedule.
            prompt_drop: probability of the empty prompt, 0 ... 1.
        """
        rng = np.random.default_rng([self.seed, _DRAWS, position])
        return Draws(
            t=int(rng.integers(num_timesteps)),
            noise=rng.standard_normal(shape, dtype=np.float32),
            posterior_noise=rng.standard_normal(shape, dtype=np.float32),
            drop_prompt=bool(rng.random() < prompt_drop),
        )


def split(batch_size: int, world_size: int, micro_batch: int | None) -> tuple[int, int]:
    """How a worker divides its share of the batch, the same on every worker.

    Args:
        batch_size: B, over all workers.
        world_size: W, at most B.
        micro_batch: samples per pass at most; None: the whole share.

    Returns:
        Samples per pass m and passes per step a, m as small as a allows; W a m is B where it divides, else a bit more.
    """
    share = -(-batch_size // world_size)
    accumulation = -(-share // (micro_batch or share))
    return -(-share // accumulation), accumulation


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(size)


@dataclass(frozen=True)
class Batch:
    """Samples of some positions, stacked on the CPU. Pixels are as stored: a sixth of the bytes that networks take."""

    positions: list[int]
    keys: list[str]
    prompts: list[str]  # "" where the prompt was dropped
    image: torch.Tensor  # x0, (B, H, W, 3), uint8
    mask: torch.Tensor  # y0, (B, H, W), uint8, 0 or 255
    t: torch.Tensor  # (B,), 0 ... num_timesteps - 1
    noise: torch.Tensor  # eps, (B, 4, H/8, W/8)
    posterior_noise: torch.Tensor  # (B, 4, H/8, W/8)
    weight: torch.Tensor | None = (
        None  # (B,) of the samples in means, 0 for those that fill up; None: all are 1
    )

    def counted(self) -> tuple[list[int], list[str]]:
        """Positions and keys of the samples that count, those of weight 0 left out."""
        counts = [True] * len(self.keys) if self.weight is None else (self.weight > 0).tolist()
        return list(itertools.compress(self.positions, counts)), list(itertools.compress(self.keys, counts))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory (the hook that DataLoader looks for)."""
        return dataclasses.replace(
            self,
            image=self.image.pin_memory(),
            mask=self.mask.pin_memory(),
            t=self.t.pin_memory(),
            noise=self.noise.pin_memory(),
            posterior_noise=self.posterior_noise.pin_memory(),
        )


class StreamDataset(Dataset[dict[str, Any] | SiamdiffError]):
    """Samples by position in the stream, with their draws.

    A damaged shard is handed on as the error itself: raised in a reading process it would come out as a traceback.
    """

    def __init__(
        self,
        shard_set: ShardSet,
        stream: Stream,
        latent_shape: Sequence[int],
        num_timesteps: int,
        prompt_drop: float,
    ) -> None:
        self.shard_set = shard_set
        self.stream = stream
        self.draw_arguments = (tuple(latent_shape), num_timesteps, prompt_drop)

    def __getitem__(self, index: int) -> dict[str, Any] | SiamdiffError:
        """The sample at a position of the stream: arrays as in `Batch`, without the first axis."""
        try:
            sample = self.shard_set.read(self.stream.key_at(index))
        except SiamdiffError as error:
            return error
        draws = self.stream.draws(index, *self.draw_arguments)
        return {
            "positions": index,
            "keys": sample.meta.key,
            "prompts": "" if draws.drop_prompt else sample.meta.prompt,
            "image": torch.from_numpy(sample.image),
            "mask": torch.from_numpy(sample.mask),
            "t": torch.tensor(draws.t),
            "noise": torch.from_numpy(draws.noise),
            "posterior_noise": torch.from_numpy(draws.posterior_noise),
        }


def image_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, C) uint8 -> (C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def _collate(items: list[dict[str, Any] | SiamdiffError]) -> Batch | SiamdiffError:
    for item in items:
        if isinstance(item, SiamdiffError):
            return item
    return _stack([item for item in items if isinstance(item, dict)])


def _stack(items: list[dict[str, Any]]) -> Batch:
    columns: dict[str, Any] = {name: [item[name] for item in items] for name in items[0]}
    stacked: dict[str, Any] = {
        name: torch.stack(rows) if isinstance(rows[0], torch.Tensor) else rows
        for name, rows in columns.items()
    }
    return Batch(**stacked)


def load_batches(
    dataset: StreamDataset,
    *,
    first_step: int,
    last_step: int,
    rank: int,
    world_size: int,
    micro_batch: int,
    loader_workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """The micro-batches of one worker from `first_step` up to, not including, `last_step`, those of `split`.

    Args:
        dataset: samples by position.
        first_step, last_step: of the stream.
        rank, world_size: this worker's place.
        micro_batch: as `split` takes or returns it.
        loader_workers: reading processes; 0 reads in this one.
        pin_memory: whether tensors come in page-locked memory.

    Raises:
        SiamdiffError: a shard is missing or damaged.
    """
    stream = dataset.stream
    micro_batch, accumulation = split(stream.batch_size, world_size, micro_batch)
    size = micro_batch * accumulation
    positions = (
        position
        for step in range(first_step, last_step)
        for position in _filled_up(stream.positions(step, rank, world_size), size)
    )
    weights: list[torch.Tensor | None] = [None]
    if world_size * size != stream.batch_size:
        weight = torch.zeros(size)
        weight[: len(stream.positions(0, rank, world_size))] = world_size * size / stream.batch_size
        weights = [part.pin_memory() if pin_memory else part for part in weight.split(micro_batch)]
    loader = DataLoader(
        dataset,
        batch_size=micro_batch,
        sampler=positions,
        num_workers=loader_workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        # object-store clients own threads, which a fork would leave behind in an unknown state
        multiprocessing_context="forkserver" if loader_workers else None,
        prefetch_factor=4 if loader_workers else None,
    )
    batches = _weighted(
        iter(loader), weights
    )  # iter() here: another thread would not hear of readers that die
    yield from _one_ahead(batches) if loader_workers else batches


def _weighted(
    batches: Iterator[Batch | SiamdiffError], weights: list[torch.Tensor | None]
) -> Iterator[Batch]:
    """The batches with the weights of their samples, these in turns."""
    for weight in itertools.cycle(weights):
        batch = next(batches, None)
        if batch is None:
            return
        if isinstance(batch, SiamdiffError):
            raise batch
        yield dataclasses.replace(batch, weight=weight)


def _one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, the next one taken from the readers in a thread while the trainer works on the last.

    To map what another process made into this one takes milliseconds, in which the trainer would wait.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        upcoming = thread.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            taken, batch = [batch], None
            upcoming = thread.submit(next, batches, None)
            yield taken.pop()  # held here no longer, so that the trainer says when it is freed


def _filled_up(positions: range, size: int) -> list[int]:
    """The positions, the last one repeated up to `size`."""
    return [*positions, *[positions[-1]] * (size - len(positions))]
