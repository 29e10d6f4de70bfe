"""The last look at a synthetic set before it is declared complete: every shard read again, wherever there is room."""

import json
import logging
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from infra import cluster
from infra.rows import each_row
from siamdiff.config import Config
from siamdiff.data.manifest import ShardEntry
from siamdiff.data.sample import Sample, Synthetic
from siamdiff.data.shards import read_marker
from siamdiff.data.shardset import ShardSet
from siamdiff.data.verify import check_shard
from siamdiff.errors import SiamdiffError
from siamdiff.sampling.audit import Audit
from siamdiff.sampling.gates import Tally
from siamdiff.sampling.plan import Plan

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0
MAX_BLOCKS = 1024  # tasks; each looks at its share of the shards


def check_shards(
    config: Config, uri: str, names: list[str], plan: Plan, masks_uri: str
) -> tuple[list[str], Tally]:
    """Problems of shards that are all finished, one line each: against their markers, the plan and its masks.

    And how their samples fared at the gates, whichever command made them.
    """
    import ray.data

    cluster.connect()
    cluster.configure_data()
    check: Any = _check
    rows = ray.data.from_items(
        [{"name": name} for name in names], override_num_blocks=min(len(names), MAX_BLOCKS)
    ).map(
        check,
        fn_kwargs={"uri": uri, "plan": plan, "masks_uri": masks_uri},
        num_cpus=config.cluster.actor_cpus,
    )
    problems: list[str] = []
    tally = Tally()
    told = time.monotonic()
    with cluster.explained():
        for count, row in enumerate(each_row(rows), 1):
            problems += row["problems"]
            tally += Tally(**json.loads(row["tally"]))
            if time.monotonic() - told > LOG_SECONDS:
                told = time.monotonic()
                log.info("%d of %d shards verified", count, len(names))
    return problems, tally


@lru_cache(maxsize=1)
def _audit(plan_json: str, masks_uri: str) -> Audit:
    plan = Plan.model_validate_json(plan_json)
    return Audit(plan, ShardSet.open(masks_uri, plan.masks))


def _check(row: dict[str, Any], uri: str, plan: Plan, masks_uri: str) -> dict[str, Any]:
    """{problems, tally (JSON)} of one shard."""
    name, tally = row["name"], Tally()
    try:
        marker = read_marker(uri, name)
        entry = ShardEntry(name=name, count=marker.count, size=marker.size, sha256=marker.sha256)
        audit = _audit(plan.model_dump_json(), masks_uri)

        def judge(shard: str, samples: Sequence[Sample]) -> Iterable[str]:
            nonlocal tally
            drawn = (sample.meta for sample in samples if isinstance(sample.meta.synthetic, Synthetic))
            tally = Tally.of(drawn)
            return audit(shard, samples)

        found = check_shard(uri, entry, "synthetic", plan.settings.resolution, judge)
        problems = [problem.text for problem in found.problems(name)]
        if found.rows is None and not problems:
            problems = [f"shard {name} is gone"]
    except (SiamdiffError, FileNotFoundError) as error:
        problems = [f"shard {name}: {error}"]
    return {"problems": problems, "tally": json.dumps(tally.as_dict())}
