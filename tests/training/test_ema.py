"""Averages of the weights: against a plain loop, shared among processes, read by another number of them."""

from pathlib import Path

import pytest
import torch

from siamdiff.errors import SiamdiffError
from siamdiff.training.ema import Averages, Fragments, share

SIZES = {"a": (3, 4), "b": (7,), "c": (1,)}


def weights(k: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(k)
    return {name: torch.randn(size, generator=generator) for name, size in SIZES.items()}


def among(count: int, first: int, last: int, folder: Path | None = None, wrote: int = 0) -> list[Averages]:
    """The averages of `count` processes after steps `first` to `last` - 1, from the files in `folder` if given."""
    now = weights(first)

    def process(rank: int) -> Averages:
        def pieces() -> Fragments:
            return {name: share(w, rank, count) for name, w in now.items()}

        return Averages(0.3, pieces, rank)

    processes = [process(rank) for rank in range(count)]
    if folder:
        for averages in processes:
            averages.load(folder, wrote)
    for k in range(first, last):
        now = weights(k + 1)
        for averages in processes:
            averages.update()
    return processes


def whole(processes: list[Averages]) -> dict[str, torch.Tensor]:
    return {
        name: sum(p.placed(name, w.numel(), "cpu") for p in processes).reshape(w.shape)
        for name, w in weights(0).items()
    }


def plain(last: int) -> dict[str, torch.Tensor]:
    """The same, written down naively."""
    average = weights(0)
    for k in range(last):
        d = min(0.3, (1 + k) / (10 + k))
        average = {name: d * average[name] + (1 - d) * w for name, w in weights(k + 1).items()}
    return average


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shares_of_all_processes_are_the_average(count):
    torch.testing.assert_close(whole(among(count, 0, 6)), plain(6))


@pytest.mark.parametrize(("wrote", "read"), [(1, 1), (2, 2), (3, 2), (2, 3), (3, 1)])
def test_any_number_of_processes_goes_on_exactly_from_the_files_of_any_other(wrote, read, tmp_path):
    for averages in among(wrote, 0, 3):
        write = averages.snapshot(tmp_path)
        averages.update()  # the files are of before
        write()
    after = whole(among(read, 3, 6, tmp_path, wrote))
    torch.testing.assert_close(after, whole(among(1, 0, 6)), rtol=0, atol=0)


def test_files_that_lack_a_piece_are_refused(tmp_path):
    for averages in among(2, 0, 1):
        averages.snapshot(tmp_path)()
    with pytest.raises(SiamdiffError, match="9 elements are missing"):
        among(1, 1, 1, tmp_path, 1)
