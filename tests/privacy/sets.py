"""A small real set, and synthetic ones that are said to come of it, with whatever is wanted among their images."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import EncodedSample, Synthetic, make_sample
from siamdiff.data.shards import write_shard
from siamdiff.data.shardset import ShardSet, finish_set

SIDE = 64
PER_GROUP = 2  # images of a patient
MODEL = "ab" * 32


def phantoms(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Images uint8 (count, side, side, 3) of which no two look alike."""
    drawn = [render_phantom(seed, index, side)[0].astype(np.int16) for index in range(count)]
    rng = np.random.default_rng([seed, side])
    small = rng.integers(-60, 61, (count, 6, 6, 3)).astype(np.float32)
    scenes = [
        np.stack(
            [
                np.asarray(Image.fromarray(one[..., channel]).resize((side, side), Image.Resampling.BICUBIC))
                for channel in range(3)
            ],
            2,
        )
        for one in small
    ]
    return np.stack(
        [(image + scene).clip(0, 255).astype(np.uint8) for image, scene in zip(drawn, scenes, strict=True)]
    )


def lesion(index: int, side: int = SIDE) -> np.ndarray:
    """A mask uint8 (side, side)."""
    return render_phantom(77, index, side)[1]


def real_set(uri: str, images: np.ndarray, held_out: int, *, grouped: bool = True) -> ShardSet:
    """A real set; the last `held_out` images are of the val split."""
    names, per = [], PER_GROUP if grouped else 1
    for split, rows in (
        ("train", range(len(images) - held_out)),
        ("val", range(len(images) - held_out, len(images))),
    ):
        samples = [
            make_sample(
                images[i],
                lesion(i, images.shape[1]),
                prompt="a polyp",
                split=split,
                group=f"{split}{i // per}",
                source_size=images.shape[1:3],
                image_format="png",
            )
            for i in rows
        ]
        if samples:
            names.append(f"{split}-000000")
            write_shard(uri, names[-1], samples)
    _finish(uri, names, "real", images.shape[1], {})
    return ShardSet.open(uri)


def drawn(
    image: np.ndarray, index: int, parent: str = "0" * 16, prompt: str = "a polyp", key: str | None = None
) -> EncodedSample:
    """A synthetic sample."""
    origin = Synthetic(
        parent=parent,
        fold=0,
        transform={"scale": {"factor": 1.1}},
        seed=index,
        model_digest=MODEL,
        sampler={"name": "ddim", "steps": 2, "guidance": 9.0, "guide": "mask"},
    )
    return make_sample(
        image,
        lesion(1000 + index, image.shape[0]),
        prompt=prompt,
        split="train",
        group=parent,
        source_size=image.shape[:2],
        image_format="png",
        key=key,
        synthetic=origin,
    )


def synthetic_set(
    uri: str,
    samples: Sequence[EncodedSample],
    training: ShardSet | None = None,
    *,
    shard_size: int = 5,
    made_from: Mapping[str, Any] | None = None,
) -> ShardSet:
    """A synthetic set that names what it was made from as bulk generation does."""
    names = []
    for number, start in enumerate(range(0, len(samples), shard_size)):
        names.append(f"fold0-{number:06d}")
        write_shard(uri, names[-1], samples[start : start + shard_size])
    told: dict[str, Any] = {}
    if training is not None:
        named = {"uri": training.uri, "digest": training.digest}
        told = {
            "masks": named,
            "model": {"uri": f"{uri}-model", "digest": MODEL, "data_digest": training.digest},
            "gates": {"copies": {"training": named}},
        }
    _finish(uri, names, "synthetic", samples[0].meta.width, told | dict(made_from or {}))
    return ShardSet.open(uri)


def _finish(uri: str, names: Sequence[str], kind: Any, side: int, made_from: dict[str, Any]) -> None:
    finish_set(
        uri,
        names,
        kind=kind,
        resolution=side,
        demo=False,
        license="CC-BY-4.0",
        permitted_use="research",
        made_from=made_from,
    )


def photographs(folder: Path, count: int, side: int) -> np.ndarray:
    """The first photographs of a folder, uint8 (count, side, side, 3)."""
    images = []
    for file in sorted(folder.iterdir())[:count]:
        with Image.open(file) as image:
            images.append(np.array(image.convert("RGB").resize((side, side), Image.Resampling.BOX)))
    return np.stack(images)


def compressed(image: np.ndarray, quality: int = 75) -> np.ndarray:
    """Through JPEG and back."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def noisy(image: np.ndarray, deviation: float = 4) -> np.ndarray:
    """With noise."""
    noise = np.random.default_rng(0).normal(0, deviation, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)
