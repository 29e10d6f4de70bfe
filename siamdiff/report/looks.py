"""What the pairs look like: contact sheets, the nearest training images, statistics of the masks."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import label

from siamdiff.data.sample import Sample, Synthetic
from siamdiff.data.shardset import ShardSet
from siamdiff.report import plots
from siamdiff.report.blocks import Block, Heading, Pairs, Plot, Plots, Section, Tabular, Text, note
from siamdiff.report.pictures import (
    Tile,
    masks_of,
    may_outline,
    may_show,
    nearest_tiles,
    real_tile,
    synthetic_tile,
)
from siamdiff.report.scope import TRAIN, Scope, View
from siamdiff.report.stages import Copies
from siamdiff.report.svg import inline, short_id
from siamdiff.report.tables import plain_table

PAIRS, ALL_PAIRS = 12, 36  # pairs of a set, and about as many of all sets together
MIN_PAIRS = 4
MAX_MASKS = 2000  # of a set, evenly spread over its keys
_EIGHT = np.ones((3, 3), int)  # pixels that touch at a corner are of one lesion
_CLASSES = ("none", "1", "2", "3", "4 or more")
_OUTLINED = "The cyan line is the outline of the mask that an image was made from, where it may be shown."
_BARE = "No mask is outlined: each is a real one or gives one away, or that could not be checked."
_NO_OUTLINES = (
    "outlines of masks that were drawn on real images, were only moved or hardly bent, so that the real one could be "
    "had from them, hold lesions of two, or cannot be compared with real ones; and how masks were moved"
)
_GONE = "Its samples are gone, or others by now: there are no pictures."


def pairs_section(scope: Scope) -> Section:
    """Real beside synthetic, with the outlines of the masks; on a shared page the synthetic ones alone."""
    return Section("pairs", "What the pairs look like", _of_each_set(scope, _pairs))


def _of_each_set(scope: Scope, of: Callable[[Scope, View], list[Block]]) -> list[Block]:
    """Blocks of every set that was compared, under its name where there are several."""
    parts: list[Block] = []
    for view in scope.views:
        if len(scope.views) > 1:
            parts.append(Heading(view.label))
        parts += of(scope, view)
    return parts + not_evaluated(scope)


def _pairs(scope: Scope, view: View) -> list[Block]:
    if view.shards is None:
        return [note(_GONE)]
    count = max(MIN_PAIRS, min(PAIRS, ALL_PAIRS // len(scope.views)))
    there = set(view.shards.keys())
    samples = [view.shards.read(key) for key in view.result.shown if key in there]
    shown = f"pairs of {len(view.shards):,}, drawn at random; {view.info.resolution} x {view.info.resolution} pixels"
    if scope.share:
        tiles = list(_shared(scope, view, samples))[:count]
        if not tiles:
            return [note("None of the pairs that were drawn may be shown here; see what was left out.")]
        return [
            Text(
                f"{len(tiles)} synthetic {shown}. {_OUTLINED if any(of.outlined for of in tiles) else _BARE}"
            ),
            Pairs([[tile] for tile in tiles], view.label),
        ]
    pairs = [_pair(view, sample) for sample in samples[:count]]
    real = "Left: the real image whose mask was used. Right: the synthetic image. "
    lines = "The cyan line is the outline of a mask: on the real image its own, on the synthetic one the mask given."
    dice = (
        " Dice: overlap of that mask with what a segmenter trained on real images finds." if view.dice else ""
    )
    return [Text(f"{len(pairs)} {shown}. {real}{lines}{dice}"), Pairs(pairs, view.label)]


def _pair(view: View, sample: Sample) -> list[Tile]:
    tile = synthetic_tile(sample, outline=_has_mask(view), told=True, dice=view.dice.get(sample.meta.key))
    origin = sample.meta.synthetic
    if view.real is None or not isinstance(origin, Synthetic) or origin.parent not in _keys(view.real):
        return [tile]
    return [real_tile(view.real.read(origin.parent)), tile]


def _shared(scope: Scope, view: View, samples: Sequence[Sample]) -> Iterator[Tile]:
    made_from = view.info.made_from
    # copies were looked for among the reference's images, which another model may never have seen
    trained_on = (made_from.get("model") or {}).get("data_digest")
    measured = view.result.copies is not None and view.result.copies.by_chance is not None
    copies = view.copies if measured and trained_on == view.evaluation.sets.real.digest else None
    masks = scope.real_sets.get((made_from.get("masks") or {}).get("digest", ""))
    for sample in samples:
        reason = may_show(sample, copies)
        if reason:
            scope.leave_out(f"synthetic images of {view.label}, where {reason}")
            continue
        outline = may_outline(sample, _parent_mask(masks, sample), scope.annotations)
        if not outline:
            scope.leave_out(_NO_OUTLINES)
        yield synthetic_tile(sample, outline=outline, told=False, dice=view.dice.get(sample.meta.key))


def _parent_mask(masks: ShardSet | None, sample: Sample) -> np.ndarray | None:
    origin = sample.meta.synthetic
    if masks is None or not isinstance(origin, Synthetic) or origin.parent not in _keys(masks):
        return None
    return masks_of(masks, [origin.parent])[0]


def _has_mask(view: View) -> bool:
    origin = view.info.made_from.get("origin") or {}
    return bool(origin.get("has_mask", True))


def _keys(shards: ShardSet) -> frozenset[str]:
    return frozenset(shards.keys())


def not_evaluated(scope: Scope) -> list[Block]:
    """Why settings have no evaluation."""
    found: list[Block] = []
    for outcome in scope.outcomes:
        if outcome.evaluation is None:
            of = f" of {scope.label(outcome)}" if scope.label(outcome) else ""
            found.append(
                note(
                    f"The evaluation{of} {outcome.missing['evaluate']}; jobs/evaluate.py draws and compares the pairs."
                )
            )
    return found


def copies_section(scope: Scope) -> Section:
    """The rate of copies and the nearest pairs."""
    return Section("copies", "Are training images copied?", _of_each_set(scope, _copies))


def _copies(scope: Scope, view: View) -> list[Block]:
    copies = view.result.copies
    if copies is None:
        return [note("Copies were not looked for: efficientnet-lite0 was not among the extractors.")]
    limits = copies.limits
    told = (
        f"{copies.count:,} of {view.result.count:,} images ({copies.rate:.1%}) come nearer to a training image than "
        f"real images of different groups come to each other: within {limits.features:.3g} in features or "
        f"{limits.pixels:.3g} in pixels (1 - cosine; {limits.basis}). {_base_rate(copies)}"
    )
    if scope.share:
        scope.leave_out("the pairs of training and synthetic images that are nearest to each other")
        return [Text(told)]
    parts: list[Block] = [Text(told)]
    if view.real is None or view.shards is None:
        return [*parts, note(_GONE)]
    count = max(MIN_PAIRS, min(PAIRS, ALL_PAIRS // len(scope.views)))
    real, synthetic = _keys(view.real), _keys(view.shards)
    nearest = [near for near in copies.nearest if near.training in real and near.key in synthetic][:count]
    tiles = [
        nearest_tiles(view.real.read(near.training), view.shards.read(near.key), near) for near in nearest
    ]
    return [
        *parts,
        Text(f"The {len(tiles)} nearest, the nearest first:"),
        Pairs(tiles, f"nearest, {view.label}"),
    ]


def _base_rate(copies: Copies) -> str:
    """What the rate has to be read beside."""
    if copies.by_chance is None:
        return (
            "With so few groups these limits find hardly more than equal images: this rate is no measurement."
        )
    return f"Up to {copies.by_chance:.1%} of new real images would be called copies too."


def masks_section(scope: Scope) -> Section:
    """Statistics of the masks that were trained on and of those that were made."""
    sets = _mask_sets(scope)
    if not sets:
        return Section(
            "masks", "The masks", [note("There is no complete set whose masks could be looked at.")]
        )
    found = {name: _statistics(shards, keys) for name, (shards, keys) in sets.items()}
    areas = {name: areas for name, (areas, _, _) in found.items()}
    lesions = {name: _classes(counts) for name, (_, counts, _) in found.items()}
    points = {name: centres for name, (_, _, centres) in found.items() if len(centres)}
    drawn = [
        _area_plot(areas),
        _lesions_plot(lesions),
        *(_centre_plot(i, *of) for i, of in enumerate(points.items())),
    ]
    thinned = any(len(keys) == MAX_MASKS for _, keys in sets.values())
    told = "Real masks of the train split against those that the images were made from."
    few = f" Of each set {MAX_MASKS:,} at most, evenly spread over its keys." if thinned else ""
    return Section("masks", "The masks", [Text(told + few), Plots(drawn)])


def _mask_sets(scope: Scope) -> dict[str, tuple[ShardSet, list[str]]]:
    """Name -> set and keys: the real training masks, and those of the views; sets of the same content once."""
    sets: dict[str, tuple[ShardSet, list[str]]] = {}
    for shards in scope.real_sets.values():
        sets.setdefault("real", (shards, shards.keys(TRAIN)))
    seen = set()
    made = [(view.label, view.shards) for view in scope.views if _has_mask(view)]
    made += [(scope.label(o) or "synthetic", o.synthetic) for o in scope.outcomes if o.evaluation is None]
    for name, shards in made:
        if shards is not None and shards.digest not in seen:
            seen.add(shards.digest)
            sets[name] = (shards, shards.keys())
    return {name: (shards, _spread(keys)) for name, (shards, keys) in sets.items() if keys}


def _spread(keys: list[str]) -> list[str]:
    places = np.linspace(0, len(keys) - 1, min(len(keys), MAX_MASKS)).astype(int)
    return [keys[place] for place in places]


def _statistics(shards: ShardSet, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each mask percent of the image that it covers and its lesions, (N,); of those not empty the centre, (M, 2)."""
    areas, lesions, centres = [], [], []
    for mask in masks_of(shards, keys):
        inside = mask >= 128
        areas.append(100 * inside.mean())
        lesions.append(_count(inside))
        if inside.any():
            rows, columns = np.nonzero(inside)
            centres.append(((columns.mean() + 0.5) / mask.shape[1], (rows.mean() + 0.5) / mask.shape[0]))
    return np.array(areas), np.array(lesions), np.array(centres).reshape(-1, 2)


def _count(inside: np.ndarray) -> int:
    labelled: Any = label(inside, _EIGHT)  # its type allows for an `output` of ours
    return labelled[1]


def _classes(counts: np.ndarray) -> dict[str, float]:
    of = Counter(min(int(count), len(_CLASSES) - 1) for count in counts)
    return {name: of[i] / max(len(counts), 1) for i, name in enumerate(_CLASSES)}


def _area_plot(areas: dict[str, np.ndarray]) -> Plot:
    quartiles = {name: np.percentile(values, [25, 50, 75]) for name, values in areas.items()}
    rows = [
        [name, len(areas[name]), *(f"{q:.1f}" for q in of), f"{areas[name].mean():.1f}"]
        for name, of in quartiles.items()
    ]
    titles = ["masks", "number", "lower quartile", "median", "upper quartile", "mean"]
    table = plain_table("Share of the image that a mask covers, in percent", titles, rows)
    said = ", ".join(f"{name} median {of[1]:.1f}%" for name, of in quartiles.items())
    top = float(np.percentile(np.concatenate(list(areas.values())), 99.5)) or None
    axis = "share of the image that the mask covers, %"
    svg = inline(plots.shares(areas, axis, top), f"Size of the masks: {said}", "areap")
    beyond = sum(int((values > top).sum()) for values in areas.values()) if top else 0
    cut = f" {beyond:,} of more than {top:.1f}% lie beyond the axis." if beyond else ""
    return Plot(svg, f"Size: {said}.{cut}", Tabular(table, "arean", "The numbers"))


def _lesions_plot(lesions: dict[str, dict[str, float]]) -> Plot:
    rows = [[name, *(f"{share:.1%}" for share in of.values())] for name, of in lesions.items()]
    table = plain_table("Share of the masks with as many separate lesions", ["masks", *_CLASSES], rows)
    said = ", ".join(f"{name} {of['1']:.0%}" for name, of in lesions.items())
    svg = inline(
        plots.numbers(lesions, "separate lesions in a mask"), f"Masks with one lesion: {said}", "lesionsp"
    )
    return Plot(svg, f"Masks with exactly one lesion: {said}.", Tabular(table, "lesionsn", "The numbers"))


def _centre_plot(i: int, name: str, points: np.ndarray) -> Plot:
    (x, y), (dx, dy) = points.mean(0), points.std(0)
    rows = [
        ["from the left", f"{100 * x:.1f}%", f"{100 * dx:.1f}%"],
        ["from the top", f"{100 * y:.1f}%", f"{100 * dy:.1f}%"],
    ]
    table = plain_table(f"Centres of the masks, {name}", ["", "mean", "standard deviation"], rows)
    said = f"{name}: on average {x:.0%} from the left, {y:.0%} from the top"
    of = short_id("centre", name)
    svg = inline(plots.centres(name, points, i), f"Centres of the masks, {said}", f"{of}p")
    return Plot(svg, f"Centres, {said}.", Tabular(table, f"{of}n", "The numbers"))
