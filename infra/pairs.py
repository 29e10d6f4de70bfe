"""Real images that figures need: parents of the paired ones (CLIP-I, LPIPS), held-out ones that are not in train."""

from dataclasses import dataclass

import numpy as np

from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError

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


def refuse_shared(real: ShardSet) -> None:
    """Looks for held-out images that are training images too.

    Raises:
        UserError: there are some; names them.
    """
    index = real.index
    rows = zip(
        *(index[name].to_pylist() for name in ("key", "split", "image_sha256")),
        strict=True,
    )
    train: dict[str, str] = {}
    held_out: list[tuple[str, str, str]] = []
    for key, split, sha256 in rows:
        if split == REFERENCE_SPLIT:
            train[sha256] = key
        else:
            held_out.append((key, split, sha256))
    shared = [f"{key} ({split}) is {train[sha256]}" for key, split, sha256 in held_out if sha256 in train]
    if shared:
        more = f" and {len(shared) - 5} more" if shared[5:] else ""
        raise UserError(
            f"{real.uri}: {len(shared)} held-out images are training images too: {', '.join(shared[:5])}{more}; "
            "ingest the source again, which keeps each image once"
        )
