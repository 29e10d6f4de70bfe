"""Bootstrap of figures: what they come to when images are drawn again, with replacement, from both sets."""

from collections.abc import Callable

import numpy as np

from siamdiff.evaluation.distances import Kernel, frechet_distance, squared_mmd

CONFIDENCE = 0.95

Sets = tuple[np.ndarray, np.ndarray]  # features of synthetic images (N, D), of real ones (M, D)


def draw_weights(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Weights float64 (resamples, count): how often each sample is taken when `count` are drawn with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def frechet_resampled(sets: Sets, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Frechet distances of resamples of both sets, (resamples,)."""
    drawn = ((of[rng.integers(len(of), size=len(of))] for of in sets) for _ in range(resamples))
    return np.array([frechet_distance(*pair) for pair in drawn])


def mmd_resampled(
    kernel: Kernel, scale: float = 1.0, *, unbiased: bool = True
) -> Callable[[Sets, int, np.random.Generator], np.ndarray]:
    """The function that gives squared MMDs of resamples of both sets, times `scale`, (resamples,)."""

    def resampled(sets: Sets, resamples: int, rng: np.random.Generator) -> np.ndarray:
        u, v = (draw_weights(len(of), resamples, rng) for of in sets)
        return scale * squared_mmd(kernel, *sets, u, v, unbiased=unbiased)

    return resampled


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The middle CONFIDENCE of values."""
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def recentred(value: float, resampled: np.ndarray) -> tuple[float, float]:
    """Percentiles of bootstrap resamples, moved so that the resamples' mean is the value.

    Resamples repeat images, which raises distances such as Frechet's: without the move the interval may lie above the
    value that it is of.
    """
    low, high = percentiles(resampled)
    shift = value - float(resampled.mean())
    return low + shift, high + shift
