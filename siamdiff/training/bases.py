"""Where a run's base comes from: a folder that is given, or a tiny one made once from the data."""

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.model.tiny import make_tiny_base
from siamdiff.run import InUseError, Lease, lease

log = logging.getLogger(__name__)

INFO = "siamdiff.json"  # written last: a base without it is not whole
WAIT_SECONDS = 5.0
MAX_IMAGES = 2048  # as many as its short training can look at


def base_uri(config: Config, data_digest: str) -> str:
    """The folder of the base in diffusers' layout; for `tiny`, ROOT/bases/tiny-DIGEST of all it is made from."""
    if config.model.base != "tiny":
        return config.model.base
    assert config.root
    model = config.model
    made_from = {
        "data": data_digest,
        "resolution": config.data.resolution,
        "seed": model.seed,
        "vae_steps": model.vae_steps,
        "unet_steps": model.unet_steps,
        "prompt": config.data.prompt,
    }
    return storage.join(config.root, "bases", f"tiny-{digest(made_from)[:16]}")


def prepare_base(config: Config) -> str:
    """Makes the tiny base unless it is there; checks that another base exists.

    Returns:
        The base's URI.

    Where another process makes the same tiny base right now, its end is waited for.

    Raises:
        UserError: nothing lies at the base that was given.
    """
    assert config.data.uri
    shard_set = ShardSet.open(config.data.uri)
    uri = base_uri(config, shard_set.digest)
    if config.model.base != "tiny":
        if not storage.list_files(uri):
            raise UserError(
                f"no base at {uri}; give a folder in diffusers' layout with --model.base, or 'tiny'"
            )
        return uri
    while not _is_whole(uri):
        try:
            with lease(uri) as held:
                if not _is_whole(uri):
                    _make(config, shard_set, uri, held)
        except InUseError:
            log.info("another job makes %s; waiting for it", uri)
            time.sleep(WAIT_SECONDS)
    log.info("base: %s", uri)
    return uri


def _is_whole(uri: str) -> bool:
    return storage.exists(storage.join(uri, INFO))


def _make(config: Config, shard_set: ShardSet, uri: str, held: Lease) -> None:
    keys = shard_set.keys("train")[:MAX_IMAGES]
    images = np.stack([shard_set.read(key).image for key in keys])  # (N, H, W, 3)
    with tempfile.TemporaryDirectory(prefix="siamdiff-base-") as temporary:
        folder = Path(temporary)
        log.info("making a tiny base from %d images: VAE, then UNet without control", len(images))
        make_tiny_base(
            images,
            config.data.resolution,
            config.model.seed,
            folder,
            vae_steps=config.model.vae_steps,
            unet_steps=config.model.unet_steps,
            prompt=config.data.prompt,
            progress=_report,
        )
        info = (folder / INFO).read_bytes()
        (folder / INFO).unlink()
        held.check()
        storage.upload_folder(uri, folder)
        storage.write_bytes(storage.join(uri, INFO), info)


def identity(config: Config, uri: str) -> Any:
    """What a run is pinned to: the tiny base's URI, which names all it is made from; else files and sizes."""
    return uri if config.model.base == "tiny" else [uri, storage.list_files(uri)]


def _report(part: str, step: int, steps: int, loss: float) -> None:
    log.info("tiny base: %s step %d/%d  loss %.4f", part, step, steps, loss)
