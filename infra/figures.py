"""The figures of one synthetic set: of which images, and what is to be said of them."""

import numpy as np

from infra.measure import Measured
from infra.pairs import REFERENCE_SPLIT
from siamdiff.config import Config
from siamdiff.evaluation.extractors import Extractor
from siamdiff.evaluation.figures import CLIP_I, LPIPS, Figure, Recipe, compare, paired

REFERENCE = f"real, {REFERENCE_SPLIT}"


def figures_of(
    config: Config, extractors: list[Extractor], name: str, measured: Measured, count: int
) -> tuple[list[Figure], list[str]]:
    """The figures of the set `name`, extractor by extractor, and warnings.

    Args:
        config: `evaluate.protocol`, `seed`, `resamples` and `kid_subset_size` are read.
        extractors: what was measured with.
        name: of the set.
        measured: of all sets.
        count: images of the set; with the paper's protocol figures are of as many of them, drawn at random, as the
            reference has.
    """
    settings = config.evaluate
    recipe = Recipe(settings.seed, settings.resamples, settings.kid_subset_size)
    rows = np.arange(count)
    if settings.protocol == "paper":
        rng = np.random.default_rng([settings.seed, 0xA1])
        rows = np.sort(rng.permutation(count)[: measured.n_real])
    of_rows = measured.pairs[name].among(rows)
    parents = [
        parent for parent, is_taken in zip(measured.pairs[name].parents, of_rows, strict=True) if is_taken
    ]
    figures, warnings, without = [], [], []
    for extractor in extractors:
        kind, spec = extractor.kind, extractor.spec
        if not extractor.is_paired:
            found, said = compare(
                measured.synthetic[name][kind][rows], measured.real[kind], spec, REFERENCE, recipe
            )
            figures += found
            warnings += said
        if not extractor.is_paired and not spec.is_clip:
            continue
        what, definition = ("lpips", LPIPS) if extractor.is_paired else ("clip_i", CLIP_I)
        if not parents:
            without.append(what)
            continue
        values = measured.values[name][kind][of_rows]
        floor = measured.floors[kind]
        figures.append(paired(what, definition, values, parents, floor, spec, REFERENCE, recipe))
        if len(parents) < len(rows):
            without.append(f"{what} of {len(rows) - len(parents)} images")
    if without:
        warnings.append(f"parents are not known, or not in {REFERENCE}: there is no {', '.join(without)}")
    return figures, list(dict.fromkeys(warnings))
