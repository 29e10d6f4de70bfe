"""Millions of samples are planned, and thousands of finished shards are found, at the price that is stated."""

from pathlib import Path

import pytest

from benchmarks.plan import FOLDS, PER_SHARD, configure, plan_apart, recognise, write_finished, write_index
from infra.synthetic import prepare
from siamdiff import storage
from siamdiff.data.shardset import ShardSet
from tests.s3 import S3Server

PAGE = 1000  # names, the most that S3 gives at once


@pytest.mark.soak
def test_a_million_masks_in_four_folds_are_planned_within_a_minute_and_a_gigabyte(tmp_path: Path) -> None:
    write_index(f"{tmp_path}/masks", 1_000_000)
    figures = plan_apart(configure(f"{tmp_path}/root", f"{tmp_path}/masks"))
    assert figures["samples"] == 4_000_000
    assert figures["shards"] == figures["to_make"] == 4 * 15_625
    assert figures["seconds"] < 60
    assert figures["peak"] < 1e9


def found(root: str, folder: Path, shards: int) -> dict:
    """What the look at an output costs whose shards are all there but two, of which only one of both files is."""
    write_index(f"{folder}/masks", shards // FOLDS * PER_SHARD)
    job = prepare(configure(root, f"{folder}/masks"))
    (folder / "finished").mkdir()
    write_finished(job, folder / "finished")
    storage.delete(f"{job.output}/shards/{job.name(0)}.tar")
    storage.delete(f"{job.output}/shards/{job.name(job.shards - 1)}.json")
    assert job.shards == shards
    return recognise(job, 1)


def test_finished_shards_are_found_by_page_and_not_one_by_one(s3: S3Server, tmp_path: Path) -> None:
    figures = found(s3.new_root(), tmp_path, 800)
    assert figures["left"] == 2
    assert figures["requests"] == {"ListObjectsV2": 2}, "1,598 names by a thousand"


@pytest.mark.soak
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_ten_thousand_finished_shards_are_found_within_half_a_minute(
    s3: S3Server, tmp_path: Path, place: str
) -> None:
    figures = found(s3.new_root() if place == "s3" else f"{tmp_path}/root", tmp_path, 10_000)
    assert figures["left"] == 2
    assert sum(figures["requests"].values()) == (2 * 10_000 // PAGE if place == "s3" else 0)
    assert figures["seconds"].median < 30


def test_an_index_as_planning_reads_it_opens_as_a_set(tmp_path: Path) -> None:
    write_index(f"{tmp_path}/masks", 600)
    masks = ShardSet.open(f"{tmp_path}/masks")
    assert len(masks) == len(set(masks.keys("train"))) == 600
    assert masks.row(masks.keys()[599]).shard == "train-000002"
