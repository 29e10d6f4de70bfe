"""Readers and images of a known kind: what they say is drawn from a model whose true figures are known."""

from dataclasses import dataclass

import numpy as np

from siamdiff.study.ratings import Again, Ratings

MEANS = {"real": 3.8, "ours": 3.3, "other": 2.3}  # of realism, before it is rounded to 1 to 5


@dataclass(frozen=True)
class Model:
    """A grade is its method's mean, the reader's leaning, the image's own and noise; so is a verdict."""

    readers: int = 3
    images: int = 10  # of each synthetic method; of real ones as many as of all
    repeats: int = 8
    leaning: float = 0.35  # standard deviation over readers
    own: float = 0.5  # over images
    noise: float = 0.6  # of single answers
    cut: float = 3.1  # a verdict is "real" where an image seems better than this
    blind: bool = False  # verdicts by the throw of a coin

    def draw(self, rng: np.random.Generator, missing: float = 0.0) -> Ratings:
        """One study; of each reader's answers a share is missing."""
        method = np.repeat(list(MEANS), [2 * self.images, self.images, self.images])
        latent = np.array([MEANS[of] for of in method]) + rng.normal(0, self.own, len(method))
        seems = latent + rng.normal(0, self.leaning, (self.readers, 1))
        realism, real = self._said(seems, rng)
        again = []
        for i in rng.permutation(len(method))[: self.repeats]:
            second, verdict = self._said(seems[:, i], rng)
            again += [
                Again(r, int(i), (int(realism[r, i]), int(second[r])), (int(real[r, i]), int(verdict[r])))
                for r in range(self.readers)
            ]
        gone = rng.random(realism.shape) < missing
        realism[gone], real[gone] = np.nan, np.nan
        return Ratings(
            readers=[f"reader-{r + 1}" for r in range(self.readers)],
            method=method,
            lesion=np.resize(["small", "medium", "large"], len(method)),
            realism=realism,
            real=real,
            confidence=np.where(gone, np.nan, 3.0),
            seconds=np.where(gone, np.nan, 9.0),
            again=again,
        )

    def _said(self, seems: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        grades = np.clip(np.round(seems + rng.normal(0, self.noise, seems.shape)), 1, 5)
        verdict = seems + rng.normal(0, self.noise, seems.shape) > self.cut
        return grades, (rng.random(seems.shape) < 0.5 if self.blind else verdict).astype(float)
