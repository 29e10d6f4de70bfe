"""Copy-Paste, the paper's simplest baseline: the real pairs once more in every fold, as if they were synthetic."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import Any

from siamdiff.data.sample import EncodedSample, Synthetic, content_key
from siamdiff.sampling.conditions import Condition
from siamdiff.sampling.plan import NO_MODEL


class PairCopier:
    """Makes samples as ShardSampler does, without a model."""

    def samples(self, conditions: Sequence[Condition]) -> Iterator[EncodedSample]:
        """The conditions' real pairs in order, byte for byte, under keys of their own; each names its original."""
        for condition in conditions:
            real = condition.real
            assert real is not None, "a plan of this method reads the real pairs"
            key = content_key(real.image, real.mask, condition.parent.encode(), str(condition.fold).encode())
            origin = Synthetic(
                parent=condition.parent,
                fold=condition.fold,
                transform={},
                seed=condition.seed,
                model_digest=NO_MODEL,
                sampler={"name": NO_MODEL},
            )
            meta = real.meta.model_copy(update={"key": key, "synthetic": origin})
            yield EncodedSample(meta, real.image, real.mask, real.image_format)

    def made_by(self) -> dict[str, Any]:
        """Nothing but this code: the bytes are the real set's."""
        return {"versions": {"siamdiff": importlib.metadata.version("siamdiff")}}
