"""Which images the paired figures (CLIP-I, LPIPS) compare: a synthetic one with the real one of its parent mask."""

from dataclasses import dataclass

import numpy as np

from siamdiff.data.shardset import ShardSet

REFERENCE_SPLIT = "train"  # of the real set: what the model learnt to imitate


@dataclass(frozen=True)
class Pairs:
    """The images of a synthetic set that have their parent in the reference."""

    rows: list[int]  # positions among the set's sorted keys
    keys: list[str]
    parents: list[str]  # of each, its key in the real set

    def among(self, rows: np.ndarray) -> np.ndarray:
        """Which pairs are of some of the set's images: bool, one for each."""
        return np.isin(self.rows, rows)


def parent_pairs(real: ShardSet, synthetic: ShardSet) -> Pairs:
    """The pairs of a synthetic set; none where parents are not known, or are of another set."""
    reference = set(real.keys(REFERENCE_SPLIT))
    keys, parents = synthetic.keys(), synthetic.index["parent"].to_pylist()
    found = [
        (i, key, parent)
        for i, (key, parent) in enumerate(zip(keys, parents, strict=True))
        if parent in reference
    ]
    return Pairs(
        [i for i, _, _ in found], [key for _, key, _ in found], [str(parent) for _, _, parent in found]
    )


def different_pairs(real: ShardSet, seed: int) -> tuple[list[str], list[str]]:
    """Keys of real images and, for each, the key of one of another group."""
    groups = dict(zip(real.index["key"].to_pylist(), real.index["group"].to_pylist(), strict=True))
    keys = np.random.default_rng([seed, 0xD1]).permutation(real.keys(REFERENCE_SPLIT)).tolist()
    pairs = []
    for one, two in zip(keys, keys[1:] + keys[:1], strict=True):
        if groups[one] != groups[two]:
            pairs.append((one, two))
    pairs.sort()
    return [one for one, _ in pairs], [two for _, two in pairs]
