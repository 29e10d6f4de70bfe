"""Features of several image sets in one plane, so that a person sees where the sets overlap (the paper's Fig. 4)."""

import numpy as np
from threadpoolctl import threadpool_limits

from siamdiff.evaluation.distances import checked

PERPLEXITY = 30.0
MIN_IMAGES = 4  # perplexity 1: below it a point has less than one neighbour
DEFINITION = (
    "t-SNE (van der Maaten and Hinton 2008; Barnes-Hut, initialised with PCA) of the features of real and synthetic "
    "images together; neighbourhoods are kept, distances between far points and the axes mean nothing"
)


def perplexity_of(count: int) -> float:
    """Effective neighbours of a point among `count`: PERPLEXITY, of few points at most a third of the others."""
    return min(PERPLEXITY, (count - 1) / 3)


def tsne(features: np.ndarray, seed: int) -> np.ndarray | None:
    """Features (N, D) as points float64 (N, 2); None where there are fewer than MIN_IMAGES different rows.

    On one thread, so that the same features and seed give the same points on the same machine.

    Raises:
        SiamdiffError: features that are not finite.
    """
    from sklearn.manifold import TSNE  # a second, which the other figures need not wait for

    features = checked(features)
    if len(np.unique(features, axis=0)) < MIN_IMAGES:
        return None
    method = TSNE(
        perplexity=perplexity_of(len(features)),
        init="pca",
        # not the seed itself, of which scikit-learn takes 32 bits only
        random_state=np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed))),
    )
    with threadpool_limits(1):
        return np.asarray(method.fit_transform(features), np.float64)
