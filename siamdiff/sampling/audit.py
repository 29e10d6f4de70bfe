"""Whether a synthetic set is what its plan says: every sample once, none foreign, every mask its parent's transform."""

import logging
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from pydantic import ValidationError

from siamdiff.data.manifest import Manifest
from siamdiff.data.sample import Sample, Synthetic
from siamdiff.data.shardset import ShardSet
from siamdiff.data.transforms import apply, second_parent
from siamdiff.errors import SiamdiffError
from siamdiff.sampling.plan import Plan, sample_seed

log = logging.getLogger(__name__)


class Audit:
    """Compares the samples of shards with a plan and the masks that it was made for.

    Args:
        plan: of the synthetic set.
        masks: the mask set, whose digest is the plan's.
    """

    def __init__(self, plan: Plan, masks: ShardSet) -> None:
        self.plan, self.masks = plan, masks
        self.keys = plan.choose(masks.keys(plan.settings.split))
        count = plan.shard_count(len(self.keys))
        self.numbers = {plan.name(len(self.keys), number): number for number in range(count)}

    def __call__(self, shard: str, samples: Sequence[Sample]) -> Iterator[str]:
        """What is wrong with a shard's samples, one line each."""
        if shard not in self.numbers:
            yield f"shard {shard} is not of the plan"
            return
        planned = self.plan.shard(self.keys, self.numbers[shard])
        due = set(planned.mask_keys)
        for sample in samples:
            where = f"shard {shard}, sample {sample.meta.key}"
            origin = sample.meta.synthetic
            if not isinstance(origin, Synthetic) or origin.fold != planned.fold or origin.parent not in due:
                yield f"{where}: not planned here, or there twice"
                continue
            due.remove(origin.parent)
            if origin.model_digest != self.plan.model:
                yield f"{where}: drawn by model {origin.model_digest[:16]}, planned is {self.plan.model[:16]}"
            if origin.seed != sample_seed(self.plan.settings.seed, origin.fold, origin.parent):
                yield f"{where}: its seed is not the plan's"
            if fault := self._draw_fault(origin):
                yield f"{where}: {fault}"
            if not np.array_equal(sample.mask, self._mask(origin)):
                yield f"{where}: its mask is not that of {origin.parent} under its transform"
        if due:
            yield f"shard {shard} lacks {len(due)} planned samples, the one of mask {min(due)} first"

    def _draw_fault(self, origin: Synthetic) -> str:
        """What is wrong with which draw it is; "" if nothing."""
        most = self.plan.settings.gates.redraws if self.plan.settings.gates else 0
        if not 0 <= origin.draw <= most:
            return f"it is draw {origin.draw}, the plan permits 0 to {most}"
        if origin.rejected and origin.draw < most:
            return f"rejected ({', '.join(origin.rejected)}) and not drawn again: draw {origin.draw} of 0 to {most}"
        return ""

    def missing(self, listed: Collection[str]) -> list[str]:
        """Planned shards that a set does not list."""
        return sorted(self.numbers.keys() - set(listed))

    def _mask(self, origin: Synthetic) -> np.ndarray:
        parent, second = self.masks.read(origin.parent).mask, second_parent(origin.transform)
        return apply(parent, origin.transform, None if second is None else self.masks.read(second).mask)


def audit_of(manifest: Manifest) -> Audit | None:
    """What judges the samples of a set.

    None for a set without a plan, a real one or another method's; and, which the log tells, where the masks that it was
    made for cannot be had or its plan is of another version.
    """
    made_from = manifest.made_from
    if "plan" not in made_from:
        return None
    fields = {name: value for name, value in made_from["plan"].items() if name != "digest"}
    try:
        plan = Plan.model_validate(fields)
        return Audit(plan, ShardSet.open(made_from["masks"]["uri"], plan.masks))
    except ValidationError:
        why = "its plan is of another version of siamdiff"
    except SiamdiffError as error:
        why = str(error)
    log.warning("not compared with plan and masks: %s", why)
    return None
