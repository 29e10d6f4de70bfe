"""Which images a study shows, and in which order: balanced over origin and lesion size, drawn at random.

As many real images as synthetic ones, as many of each method; of each class of lesion size as many of every method,
and as many real ones as of all methods together. So neither size nor number tells the origin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siamdiff.data.sample import Foreign, decode_mask
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.evaluation.sizes import SIZES, size_class
from siamdiff.study.folder import REAL

CLASSES = tuple(name for name, _ in SIZES)
UNKNOWN = "unknown"  # class of an image that came without a mask
_MAX_READ = 5000  # samples of a set that are looked at
_SPARE = 4  # times as many as needed, so that patients and masks need not come twice
_TRIES = 200


@dataclass(frozen=True)
class Candidate:
    """A sample that may be shown."""

    key: str
    lesion: str  # class of the lesion's size
    share: float  # of the image's pixels
    family: frozenset[str]  # its patient and the sample whose mask it shows


@dataclass(frozen=True)
class Draw:
    """What is shown, by method, and how many of them share a patient or a mask with another one."""

    chosen: dict[str, list[Candidate]]
    related: int


def candidates(
    shard_set: ShardSet, keys: Sequence[str], needed: int, rng: np.random.Generator
) -> list[Candidate]:
    """Samples with a lesion, or without a mask, in random order: enough of each class, where the set has them.

    Args:
        shard_set: where they lie.
        keys: those that may be taken.
        needed: how many of a class are shown at most.
        rng: makes the order.
    """
    found: list[Candidate] = []
    missing = dict.fromkeys(CLASSES, needed * _SPARE)
    for position in rng.permutation(len(keys))[:_MAX_READ]:
        candidate = _candidate(shard_set, keys[int(position)])
        if candidate is None:
            continue
        found.append(candidate)
        missing[candidate.lesion] = missing.get(candidate.lesion, 0) - 1
        if max(missing.values()) <= 0:
            break
    return found


def _candidate(shard_set: ShardSet, key: str) -> Candidate | None:
    row, sample = shard_set.row(key), shard_set.read_encoded(key)
    family = frozenset((row.group, row.parent or key))
    origin = sample.meta.synthetic
    if isinstance(origin, Foreign) and not origin.has_mask:
        return Candidate(key, UNKNOWN, 0.0, family)
    share = float((decode_mask(sample.mask) >= 128).mean())
    lesion = size_class(share)
    return None if lesion is None else Candidate(key, lesion, share, family)


def draw(found: Mapping[str, Sequence[Candidate]], images: int) -> Draw:
    """Chooses the images of a study.

    Args:
        found: method -> candidates in random order; REAL among them.
        images: how many, without repeats.

    Raises:
        UserError: the number cannot be divided evenly, or the sets hold too few.
    """
    methods = [method for method in found if method != REAL]
    step = 2 * len(methods)
    if images < step or images % step:
        raise UserError(
            f"--images {images} cannot be half real and half synthetic, evenly over {len(methods)} methods; "
            f"give a multiple of {step}, such as {max(step, images // step * step)}"
        )
    each = images // step
    counts = {method: _counts(of) for method, of in found.items()}
    masked = [method for method in methods if UNKNOWN not in counts[method]]
    room = {
        lesion: min([counts[REAL][lesion] // len(methods), *(counts[method][lesion] for method in masked)])
        for lesion in CLASSES
    }
    most = min([sum(room.values()), *(counts[method][UNKNOWN] for method in methods if method not in masked)])
    if most < each:
        raise UserError(
            f"--images {images} needs {each} of each method, balanced over lesion sizes, but the sets hold enough for "
            f"{most} ({_told(counts)}); give at most --images {most * step}, or larger sets"
        )
    shared = spread(room, each)
    wanted = {REAL: {lesion: len(methods) * count for lesion, count in shared.items()}}
    for method in methods:
        wanted[method] = shared if method in masked else {UNKNOWN: each}
    return _chosen(found, wanted)


def spread(room: Mapping[str, int], total: int) -> dict[str, int]:
    """Divides a total over classes as evenly as their room allows: one after the other to the class that has least."""
    given = dict.fromkeys(room, 0)
    for _ in range(total):
        least = min((name for name in room if given[name] < room[name]), key=lambda name: given[name])
        given[least] += 1
    return given


def _counts(of: Sequence[Candidate]) -> dict[str, int]:
    counts = dict.fromkeys(CLASSES, 0)
    for candidate in of:
        counts[candidate.lesion] = counts.get(candidate.lesion, 0) + 1
    return counts


def _told(counts: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(
        f"{method}: {', '.join(f'{lesion} {count}' for lesion, count in of.items())}"
        for method, of in counts.items()
    )


def _chosen(found: Mapping[str, Sequence[Candidate]], wanted: Mapping[str, Mapping[str, int]]) -> Draw:
    """Takes what is scarce first, and whatever has least to do with what was taken before."""
    pools = {
        (method, lesion): [candidate for candidate in found[method] if candidate.lesion == lesion]
        for method, classes in wanted.items()
        for lesion in classes
    }
    spare = {place: len(pool) - wanted[place[0]][place[1]] for place, pool in pools.items()}
    taken: dict[str, list[Candidate]] = {method: [] for method in wanted}
    seen: set[str] = set()
    related = 0
    for place in sorted(pools, key=lambda place: spare[place]):
        pool = pools[place]
        for _ in range(wanted[place[0]][place[1]]):
            best = min(pool, key=lambda candidate: len(candidate.family & seen))
            related += bool(best.family & seen)
            seen |= best.family
            pool.remove(best)
            taken[place[0]].append(best)
    return Draw(taken, related)


def choose_repeats(methods: Sequence[str], count: int, rng: np.random.Generator) -> list[int]:
    """Which images are shown twice: of real and synthetic ones as many, of the methods in turn.

    Args:
        methods: the method of each image.
        count: how many, at most half of them.
        rng: chooses among the images of a method.
    """
    pools = {
        method: list(rng.permutation([i for i, of in enumerate(methods) if of == method]))
        for method in dict.fromkeys(methods)
    }
    synthetic = [method for method in pools if method != REAL]
    turns = [turn for method in synthetic for turn in (REAL, method)]
    return [int(pools[turns[i % len(turns)]].pop()) for i in range(count)]


def order(pairs: Sequence[tuple[str, str]], others: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A random order in which a repeat comes at least a third of the whole after its image.

    Args:
        pairs: names of one image; either may come first.
        others: names of the images that come once.
        rng: makes the order.
    """
    total = 2 * len(pairs) + len(others)
    places = _places(len(pairs), total, total // 3, rng)
    names: list[str] = [""] * total
    for pair, place in zip(pairs, places, strict=True):
        for name, position in zip(rng.permutation(pair), place, strict=True):
            names[position] = str(name)
    free = [position for position in range(total) if not names[position]]
    for name, position in zip(rng.permutation(list(others)), free, strict=True):
        names[position] = str(name)
    return names


def _places(count: int, total: int, gap: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Positions (first, second) of some pairs; second - first >= gap."""
    for _ in range(_TRIES):
        free = set(range(total))
        places = []
        for _ in range(count):
            firsts = [first for first in sorted(free) if any(second >= first + gap for second in free)]
            if not firsts:
                break
            first = int(rng.choice(firsts))
            second = int(rng.choice([second for second in sorted(free) if second >= first + gap]))
            free -= {first, second}
            places.append((first, second))
        else:
            return places
    return [
        (i, total - count + i) for i in range(count)
    ]  # with half of the images twice there may be no other
