"""benchmarks/fleet.py on a real Ray, at its smallest. No figure is held."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import fleet
from infra import cluster


@pytest.mark.cluster
@pytest.mark.soak
def test_stand_ins_make_planned_shards_in_the_fleet(s3: object, tmp_path: Path) -> None:
    chosen = Namespace(resolution=32, batch=2, shard=4, shards=6, actors=[2], seconds=0.05)
    cluster.connect()
    try:
        rows = fleet.measure(str(tmp_path), chosen)
    finally:
        cluster.leave()
    assert [row["actors"] for row in rows] == [1, 2]
    assert all(0 < row["busy"].median < 1 for row in rows)
