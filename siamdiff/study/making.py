"""Makes a study's folder: draws the images, writes them all alike, keeps the key apart.

Every image is decoded to RGB, passed once through the same JPEG (real ones mostly come from JPEG and carry its traces,
synthetic ones never did) and written as a PNG without compression, whose size depends on the image's sides alone.
"""

import contextlib
import io
import os
import secrets
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from siamdiff import storage
from siamdiff.data.sample import decode_image, encode_image
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.study import codes, design
from siamdiff.study.folder import (
    IMAGES,
    KEY,
    PRIVATE,
    READERS,
    REAL,
    STUDY,
    Origin,
    Readers,
    Secret,
    Source,
    Study,
)

MAX_READERS = 100


@dataclass(frozen=True)
class Plan:
    """What a study is to be."""

    images: int  # without repeats
    repeats: int
    readers: int
    seed: int
    split: str | None = None  # of the real set; None: all

    def check(self) -> None:
        """Refuses numbers that cannot be.

        Raises:
            UserError: one of them.
        """
        if self.images < 1 or self.seed < 0:
            raise UserError(
                f"--images {self.images} --seed {self.seed}: at least 1 image, and no seed below 0"
            )
        if not 0 <= self.repeats <= self.images // 2:
            raise UserError(
                f"--repeats {self.repeats} is not in 0 to {self.images // 2}: at most half of the images are shown "
                "twice, so that a repeat comes long after"
            )
        if not 1 <= self.readers <= MAX_READERS:
            raise UserError(f"--readers {self.readers} is not in 1 to {MAX_READERS}")


@dataclass(frozen=True)
class Made:
    """A study that was made."""

    place: Path
    codes: dict[str, str]  # reader -> personal code; nobody can tell them later
    counts: dict[str, dict[str, int]]  # method -> class of lesion size -> images
    related: int  # images that share a patient or a mask with another one


def make_study(real: str, synthetic: Mapping[str, str], to: str, plan: Plan) -> Made:
    """Writes a study to the folder `to`, which is there whole afterwards, or not at all.

    Args:
        real: URI of a real set.
        synthetic: method -> URI of its synthetic set.
        to: a folder on a disk that does not exist yet.
        plan: how many images and readers.

    Raises:
        UserError: the sets do not fit together, hold too few images, or the folder is there.
        SiamdiffError: a set is damaged.
    """
    plan.check()
    place = _free(to)
    sets = _open(real, synthetic)
    rng = np.random.default_rng(plan.seed)
    each = -(-plan.images // (2 * len(synthetic)))
    found = {}
    for method, shard_set in sets.items():
        keys = shard_set.keys(_split(shard_set, plan.split)) if method == REAL else shard_set.keys()
        needed = each * len(synthetic) if method == REAL else each
        found[method] = design.candidates(shard_set, keys, needed, rng)
    drawn = design.draw(found, plan.images)
    secret, names = _secret(sets, drawn, plan, rng)
    study = Study(
        id=secret.study,
        side=sets[REAL].manifest.resolution,
        image_bytes=len(_png(np.zeros([sets[REAL].manifest.resolution] * 2 + [3], np.uint8))),
        orders={f"reader-{i + 1}": _order(names) for i in range(plan.readers)},
    )
    personal = {reader: codes.new_code() for reader in study.orders}
    with _writing(place) as partial:
        _write_images(partial / IMAGES, secret, sets, study.image_bytes)
        _write_records(partial, study, secret, codes.hashed(personal))
    counts = {method: _classes(of) for method, of in drawn.chosen.items()}
    return Made(place, personal, counts, drawn.related)


def _free(to: str) -> Path:
    place = storage.local_path(storage.normalize(to))
    if place is None:
        raise UserError(
            f"--to {to} is in an object store; a study lies on the disk of the machine that serves it"
        )
    if place.exists():
        raise UserError(
            f"--to {to} is there already; name another folder: a study is never changed or replaced"
        )
    return place


def _open(real: str, synthetic: Mapping[str, str]) -> dict[str, ShardSet]:
    """All sets by method, which must be of one resolution and of the kinds that they were given as."""
    sets = {REAL: ShardSet.open(real)}
    for method, uri in synthetic.items():
        if method.lower() == REAL:
            raise UserError(
                f"--synthetic {method}={uri}: {REAL!r} is the name of the real set; give it another"
            )
        sets[method] = ShardSet.open(uri)
    side = sets[REAL].manifest.resolution
    for method, shard_set in sets.items():
        manifest, kind = shard_set.manifest, REAL if method == REAL else "synthetic"
        if manifest.kind != kind:
            raise UserError(f"{shard_set.uri} holds {manifest.kind} images and was given as {kind}")
        if manifest.resolution != side:
            raise UserError(
                f"{shard_set.uri} is of {manifest.resolution} pixels a side, {sets[REAL].uri} of {side}: that would "
                "tell them apart; make them again with one data.resolution"
            )
    return sets


def _split(shard_set: ShardSet, split: str | None) -> str | None:
    if split is not None and split not in shard_set.manifest.splits:
        raise UserError(
            f"--split {split}: {shard_set.uri} has {', '.join(shard_set.manifest.splits)}; give one of them, or none"
        )
    return split


def _secret(
    sets: Mapping[str, ShardSet], drawn: design.Draw, plan: Plan, rng: np.random.Generator
) -> tuple[Secret, list[list[str]]]:
    """The key, and the names of each picture: one, or two if it comes again."""
    pictures = [(method, candidate) for method, of in drawn.chosen.items() for candidate in of]
    again = set(design.choose_repeats([method for method, _ in pictures], plan.repeats, rng))
    names, images = [], {}
    for picture, (method, candidate) in enumerate(pictures):
        origin = Origin(
            method=method,
            source=candidate.key,
            lesion=candidate.lesion,
            share=candidate.share,
            picture=picture,
        )
        names.append([secrets.token_hex(16) for _ in range(1 + (picture in again))])
        images |= dict.fromkeys(names[-1], origin)
    sources = {
        method: Source(digest=of.digest, license=of.manifest.license, permitted_use=of.manifest.permitted_use)
        for method, of in sets.items()
    }
    secret = Secret(
        study=secrets.token_hex(16),
        seed=plan.seed,
        split=plan.split,
        sets=sources,
        related=drawn.related,
        images=dict(sorted(images.items())),
    )
    return secret, names


def _order(names: list[list[str]]) -> list[str]:
    """One reader's order, which nobody can make again: `names` begin with the real images, and many know the seed."""
    mixed = secrets.SystemRandom().sample(names, len(names))
    pairs = [(of[0], of[1]) for of in mixed if len(of) == 2]
    others = [of[0] for of in mixed if len(of) == 1]
    return design.order(pairs, others, np.random.default_rng(secrets.randbits(128)))


def _classes(of: list[design.Candidate]) -> dict[str, int]:
    present = {candidate.lesion for candidate in of}
    return {
        lesion: sum(candidate.lesion == lesion for candidate in of)
        for lesion in (*design.CLASSES, design.UNKNOWN)
        if lesion in present
    }


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[Path]:
    """A folder beside `place`, which takes its name when the block has ended without an error."""
    partial = place.parent / f".partial-{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(place)
    except OSError as error:
        raise UserError(
            f"--to {place} cannot be written: {error.strerror or error}; name another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_images(folder: Path, secret: Secret, sets: Mapping[str, ShardSet], size: int) -> None:
    folder.mkdir()
    for name, origin in secret.images.items():  # by name: the order on the disk tells nothing
        data = _png(_alike(sets[origin.method].read(origin.source).image))
        if len(data) != size:
            raise SiamdiffError(
                f"an image takes {len(data)} bytes, another {size}: their sizes would tell them apart"
            )
        (folder / f"{name}.png").write_bytes(data)
        os.utime(folder / f"{name}.png", (0, 0))


def _alike(image: np.ndarray) -> np.ndarray:
    """An image uint8 (H, W, 3) with the traces of the one JPEG that all have passed."""
    return decode_image(encode_image(image, "jpg"))


def _png(image: np.ndarray) -> bytes:
    """PNG without compression or metadata: as many bytes for every image of a size."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG", compress_level=0)
    return data.getvalue()


def _write_records(partial: Path, study: Study, secret: Secret, readers: Readers) -> None:
    (partial / PRIVATE).mkdir(mode=0o700)
    for name, record in ((KEY, secret), (READERS, readers), (STUDY, study)):
        storage.write_json(str(partial / name), record.model_dump(mode="json"))
    for name in (KEY, READERS):
        (partial / name).chmod(0o600)
