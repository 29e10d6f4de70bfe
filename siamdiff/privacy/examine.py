"""The report of one synthetic set: every check, in one pass over its shards, one of which is held at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

import numpy as np

from siamdiff.data.manifest import Manifest
from siamdiff.data.sample import Sample
from siamdiff.data.shards import index_tar, unpack
from siamdiff.errors import SiamdiffError
from siamdiff.export.common import shard_bytes
from siamdiff.model.about import read_info
from siamdiff.privacy.inputs import Inputs
from siamdiff.privacy.metadata import MetadataScan, source_names
from siamdiff.privacy.model_loss import model_membership
from siamdiff.privacy.neighbours import Neighbours, Real, read_real
from siamdiff.privacy.record import (
    SCHEMA,
    About,
    Check,
    Masks,
    Membership,
    Nearness,
    Pair,
    Report,
    Text,
    digest_of,
    worst,
)
from siamdiff.privacy.spaces import CHUNK, CROPS, Embedder
from siamdiff.privacy.statistics import share_of
from siamdiff.privacy.text import THRESHOLD, text_suspicion
from siamdiff.report.pictures import annotation
from siamdiff.terms import Terms, combine, sources_of

SEED = 0
RECIPE = 2  # raised when the same inputs come to give other figures
SUSPECTS = 24  # keys of images with suspected text that the record names


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a person may choose."""

    quantile: float = 0.01  # share of new groups that may be over the threshold, in each of two spaces
    members: int = 200  # pairs of training and of held-out images that the model is asked about, each
    device: str = "cpu"


@dataclass(frozen=True)
class Examined:
    """A report, and what its page shows beside it."""

    report: Report
    pairs: list[Pair]  # all that are over the threshold, nearest first; else the nearest


class _Samples:
    """Takes the samples of a synthetic set, for the checks that look at pixels."""

    def __init__(self, neighbours: Neighbours | None, embed: Embedder) -> None:
        self._neighbours, self._embed = neighbours, embed
        self._annotations = neighbours.real.annotations if neighbours else frozenset()
        self.count, self.equal_masks = 0, 0
        self.suspects: list[tuple[int, str]] = []  # (-score, key)
        self.suspected = 0

    def add(self, samples: Sequence[Sample]) -> None:
        """Takes up to CHUNK samples."""
        self.count += len(samples)
        for sample in samples:
            suspicion = text_suspicion(sample.image)
            if suspicion.is_suspected:
                self.suspected += 1
                self.suspects = sorted([*self.suspects, (-suspicion.score, sample.meta.key)])[:SUSPECTS]
            if self._annotations and sample.mask.any():
                self.equal_masks += annotation(sample.mask) in self._annotations
        if self._neighbours:
            views = self._embed(np.stack([sample.image for sample in samples]))
            self._neighbours.add([sample.meta.key for sample in samples], views)

    def masks(self) -> Masks:
        """How many masks were drawn on training images."""
        if self._neighbours is None:
            return Masks(verdict="not done", said="There is no training set to compare with.")
        said = f"{self.equal_masks:,} of {self.count:,} masks are"
        if not self.equal_masks:
            said = f"None of {self.count:,} masks is"
        said += " a mask of a training image, as it is, mirrored or turned by a quarter."
        if self.equal_masks:
            said += " Where the outline of a lesion tells whose it is, that is to be weighed."
        verdict = "look" if self.equal_masks else "pass"
        return Masks(verdict=verdict, said=said, equal=share_of(self.equal_masks, self.count))

    def text(self, real: Real | None) -> Text:
        """Images that look as if they bore text."""
        told = f"{self.suspected:,} of {self.count:,} images look as if they bore text"
        training = share_of(real.suspected, real.members) if real else None
        if training:
            told += f"; of the training images {training.count:,} of {training.of:,}"
        told += ". Look at them." if self.suspected else ". Small or soft letters are not seen."
        return Text(
            verdict="look" if self.suspected else "pass",
            said=told,
            threshold=THRESHOLD,
            suspected=share_of(self.suspected, self.count),
            training=training,
            keys=[key for _, key in self.suspects],
        )


def examine(inputs: Inputs, settings: Settings, now: datetime) -> Examined:
    """Makes every check of a synthetic set.

    Args:
        inputs: the set and what it came from.
        settings: what was chosen.
        now: with its time zone.

    Raises:
        SiamdiffError: the set, the training set or the model is damaged.
    """
    training, names = inputs.training, source_names(inputs.training)
    embed = Embedder(settings.device)
    real = read_real(training, embed) if training else None
    neighbours = Neighbours(real, settings.quantile, settings.device) if real else None
    samples, scan = _Samples(neighbours, embed), MetadataScan(names)
    _pass(inputs, samples, scan)
    nearness, pairs, membership = _compared(neighbours, inputs)
    of_model = _of_model(inputs, real, settings)
    masks, text, metadata = samples.masks(), samples.text(real), scan.outcome()
    checks: list[Check] = [nearness, membership, of_model, masks, metadata, text]
    manifest = inputs.synthetic.manifest
    report = Report(
        edition="internal",
        date=now.isoformat(timespec="seconds"),
        siamdiff=version("siamdiff"),
        device=settings.device,
        seed=SEED,
        inputs_digest=_inputs_digest(inputs, settings, names),
        verdict=worst(check.verdict for check in checks),
        demo=manifest.demo,
        resolution=manifest.resolution,
        synthetic=About(
            uri=inputs.synthetic.uri,
            digest=manifest.digest,
            count=manifest.count,
            terms=_terms(manifest),
        ),
        origin=inputs.origin,
        training=_about_training(inputs),
        training_images=real.members if real else 0,
        held_out_images=len(real.keys) - real.members if real else 0,
        model=_about_model(inputs),
        nearness=nearness,
        membership=membership,
        model_membership=of_model,
        masks=masks,
        metadata=metadata,
        text=text,
        contains=[],
    )
    return Examined(report, pairs)


def _pass(inputs: Inputs, samples: _Samples, scan: MetadataScan) -> None:
    """Reads the set once, shard by shard."""
    of, side = inputs.synthetic, inputs.synthetic.manifest.resolution
    for shard in of.manifest.shards:
        data = shard_bytes(of.uri, shard)
        rows = index_tar(data, shard.name)
        scan.shard(shard.name, data, rows)
        for start in range(0, len(rows), CHUNK):
            chunk = [unpack(data, row).decode() for row in rows[start : start + CHUNK]]
            for sample in chunk:
                if sample.mask.shape != (side, side):
                    raise SiamdiffError(
                        f"{of.uri} is damaged: sample {sample.meta.key} is not {side} x {side}; python -m siamdiff "
                        "verify tells all that is wrong with it"
                    )
            samples.add(chunk)
    if samples.count != of.manifest.count:
        raise SiamdiffError(
            f"{of.uri} holds {samples.count} samples, its dataset.json says {of.manifest.count}; python -m siamdiff "
            "verify tells what is wrong with it"
        )
    scan.set_files(of)


def _compared(neighbours: Neighbours | None, inputs: Inputs) -> tuple[Nearness, list[Pair], Membership]:
    if neighbours is None:
        said = f"It could not be done: {inputs.no_training}."
        return Nearness(verdict="not done", said=said), [], Membership(verdict="not done", said=said)
    nearness, pairs = neighbours.nearness(inputs.doubt)
    return nearness, pairs, neighbours.membership()


def _of_model(inputs: Inputs, real: Real | None, settings: Settings) -> Membership:
    if inputs.model is None:
        return Membership(verdict="not done", said=f"It could not be done: {inputs.no_model}.")
    if real is None or inputs.training is None:
        return Membership(verdict="not done", said=f"It could not be done: {inputs.no_training}.")
    return model_membership(inputs.model, inputs.training, real, settings.members, SEED, settings.device)


def _about_training(inputs: Inputs) -> About | None:
    if inputs.training is None:
        return None
    manifest = inputs.training.manifest
    return About(
        uri=inputs.training.uri,
        digest=manifest.digest,
        count=manifest.count,
        terms=_terms(manifest),
    )


def _about_model(inputs: Inputs) -> About | None:
    if inputs.model is None:
        return About(uri=None, digest=inputs.model_digest) if inputs.model_digest else None
    return About(uri=inputs.model, digest=str(read_info(inputs.model).get("model_digest", "")))


def _terms(manifest: Manifest) -> str:
    """What holds for a set: its own terms, and those of what it says that it comes from."""
    own = Terms(manifest.license, manifest.permitted_use)
    together = combine([own, *sources_of(manifest.made_from).values()])
    return f"{together.license}; {together.permitted_use}"


def _inputs_digest(inputs: Inputs, settings: Settings, names: set[str] | None) -> str:
    return digest_of(
        {
            "schema": SCHEMA,
            "recipe": RECIPE,
            "synthetic": inputs.synthetic.digest,
            "training": inputs.training.digest if inputs.training else None,
            "model": inputs.model_digest if inputs.model else None,
            "quantile": settings.quantile,
            "members": settings.members,
            "crops": CROPS,
            "seed": SEED,
            "names": sorted(names) if names is not None else None,
        }
    )
