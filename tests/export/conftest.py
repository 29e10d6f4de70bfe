"""A real set of polyps and a synthetic one made from it, as ingest and generate write them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamdiff.data.sample import EncodedSample, Synthetic, content_key, make_sample
from siamdiff.data.shards import write_shard
from siamdiff.data.shardset import ShardSet, finish_set

SIDE = 64
# Ten photographs of Kvasir-SEG; the first two are of one patient, as far as these tests are concerned.
SPLITS = ("train",) * 6 + ("val",) * 2 + ("test",) * 2


@dataclass(frozen=True)
class Sets:
    """URIs of the two sets."""

    real: str
    synthetic: str


def photographs(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for path in sorted((folder / "images").iterdir())[: len(SPLITS)]:
        with Image.open(path) as image, Image.open(folder / "masks" / f"{path.stem}.png") as mask:
            small = np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
            yield small, np.array(mask.convert("L").resize((SIDE, SIDE), Image.Resampling.NEAREST))


def real_samples(folder: Path, splits: tuple[str, ...] = SPLITS) -> list[EncodedSample]:
    samples: list[EncodedSample] = []
    for number, (image, mask) in enumerate(photographs(folder)):
        group = samples[0].meta.key if number == 1 else None
        crop = (1, 2, 351, 350) if number == 2 else None
        samples.append(
            make_sample(
                image, mask, prompt="a polyp", split=splits[number], group=group, source_size=(352, 352),
                image_format="jpg", crop=crop,
            )
        )  # fmt: skip
    return samples


def synthetic_samples(parents: list[EncodedSample], fold: int) -> list[EncodedSample]:
    """Mirror images of the parents in fold 1, darker copies in fold 0."""
    samples = []
    for number, parent in enumerate(parents):
        pair = parent.decode()
        image, mask = (pair.image // 2, pair.mask) if fold == 0 else (pair.image[:, ::-1], pair.mask[:, ::-1])
        origin = Synthetic(
            parent=parent.meta.key,
            fold=fold,
            transform={} if fold == 0 else {"flip": {"left_right": True}},
            seed=2**62 + number,
            model_digest="d" * 64,
            sampler={"name": "ddim", "steps": 50, "guidance": 9.0, "eta": 0.0, "precision": "fp32"},
        )
        samples.append(
            make_sample(
                np.ascontiguousarray(image), np.ascontiguousarray(mask), prompt=parent.meta.prompt,
                split=parent.meta.split, group=parent.meta.group, source_size=(SIDE, SIDE), image_format="png",
                key=content_key(image.tobytes(), mask.tobytes(), bytes([fold])), synthetic=origin,
            )
        )  # fmt: skip
    return samples


def write_real(uri: str, samples: list[EncodedSample]) -> ShardSet:
    names = []
    for split in sorted({sample.meta.split for sample in samples}):
        names.append(f"{split}-000000")
        write_shard(uri, names[-1], [sample for sample in samples if sample.meta.split == split])
    finish_set(
        uri, names, kind="real", resolution=SIDE, demo=False, license="Kvasir-SEG",
        permitted_use="research and education", made_from={"source_sha256": "5" * 64, "recipe": 3},
    )  # fmt: skip
    return ShardSet.open(uri)


def write_synthetic(uri: str, parents: list[EncodedSample], real: ShardSet) -> ShardSet:
    names = ["fold0-000000", "fold1-000000"]
    for fold, name in enumerate(names):
        made_by = {"device": "x86_64", "versions": {"siamdiff": "0.1.0", "torch": "2.13.0"}}
        write_shard(uri, name, synthetic_samples(parents, fold), made_by)
    finish_set(
        uri, names, kind="synthetic", resolution=SIDE, demo=False, license="Kvasir-SEG; CreativeML Open RAIL-M",
        permitted_use="research and education",
        made_from={
            "masks": {"uri": real.uri, "digest": real.digest},
            "model": {"uri": "s3://bucket/runs/r/model", "digest": "d" * 64, "data_digest": real.digest},
            "plan": {"digest": "0123456789abcdef", "settings": {"folds": 2, "steps": 50, "guidance": 9.0}},
        },
    )  # fmt: skip
    return ShardSet.open(uri)


@pytest.fixture(scope="session")
def sets(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """A real set with three splits, JPEG, and two synthetic folds of all its masks, PNG."""
    root = tmp_path_factory.mktemp("sets")
    samples = real_samples(shared / "data/kvasir_seg")
    real = write_real(str(root / "real"), samples)
    synthetic = write_synthetic(str(root / "synthetic"), samples, real)
    return Sets(real.uri, synthetic.uri)
