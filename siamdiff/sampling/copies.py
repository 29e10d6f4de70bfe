"""Copy-Paste, the paper's simplest baseline: the real pairs once more in every fold, as if they were synthetic."""

import importlib.metadata
from collections.abc import Sequence
from contextlib import nullcontext

from siamdiff.data.sample import EncodedSample, Synthetic, content_key
from siamdiff.sampling.conditions import Condition
from siamdiff.sampling.plan import NO_MODEL
from siamdiff.sampling.protocols import Made, Turn


class PairCopier:
    """Makes samples as ShardSampler does, without a model."""

    def make(self, conditions: Sequence[Condition], turn: Turn = nullcontext) -> Made:
        """The conditions' real pairs in order, byte for byte, under keys of their own; each names its original."""
        with turn():
            samples = [self._copied(condition) for condition in conditions]
        # Nothing but this code made them: the bytes are the real set's.
        return Made(samples, {"versions": {"siamdiff": importlib.metadata.version("siamdiff")}})

    def _copied(self, condition: Condition) -> EncodedSample:
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
        return EncodedSample(meta, real.image, real.mask, real.image_format)
