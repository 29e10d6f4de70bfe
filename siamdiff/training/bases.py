"""A run's base: one that is given (siamdiff.model.sources), or a tiny one made once from the data."""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from siamdiff import storage, transfer
from siamdiff.config import Config, digest
from siamdiff.data.shardset import ShardSet
from siamdiff.model import sources
from siamdiff.model.sources import INFO, TINY
from siamdiff.run import InUseError, Lease, lease

log = logging.getLogger(__name__)

PINNED, BASE_FIELD = "pinned.json", "digest of base"  # of a run, see siamdiff.run.pin
BEGAN = "base.json"  # of a run
_SAID = ("model_digest", "data_digest", "images_digest", "images")
_AND_PARTS = "; parts "
WAIT_SECONDS = 5.0
MAX_IMAGES = 2048  # as many as its short training can look at


def base_uri(config: Config, data_digest: str) -> str:
    """The base, named by its content: a hub id with its commit; for `tiny`, ROOT/bases/tiny-DIGEST of what makes it.

    A hub id without revision means, for a run that began, the commit that the run began with.

    Raises:
        UserError: the hub does not know the model, or cannot be reached and the model is not in this machine's cache.
    """
    if config.model.base != TINY:
        return _pinned_commit(config) or sources.resolved(config.model.base)
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


def _pinned_commit(config: Config) -> str | None:
    try:
        pinned = storage.read_json(storage.join(config.run_uri(), PINNED))[BASE_FIELD]
    except (FileNotFoundError, KeyError):
        return None
    base = pinned.partition(_AND_PARTS)[0]
    return base if base.startswith(f"{config.model.base}@") else None


def identity(config: Config, uri: str) -> str:
    """What a run is pinned to: the tiny base's URI, which names all it is made from; else what the base's content is.

    Raises:
        UserError: nothing lies there.
    """
    if config.model.base == TINY:
        return uri
    parts = config.model.parts
    return sources.identity(uri) + (
        f"{_AND_PARTS}{sources.identity(sources.resolved(parts))}" if parts else ""
    )


@contextmanager
def open_base(config: Config, uri: str) -> Iterator[Path]:
    """A local folder with the base, fetched or made once per node, for `load_base` while the block runs.

    Args:
        config: resolved configuration.
        uri: of `base_uri`.

    Raises:
        UserError: see siamdiff.model.sources.opened.
    """
    with sources.opened(uri, config.model.parts) as folder:
        yield folder


def note_base(config: Config, uri: str, folder: Path) -> None:
    """Writes a run's `base.json`: what its base says of its origin, for a trace when the base is gone or was moved.

    The run is not tied to it: what the base is says its content, see `identity`.

    Args:
        config: resolved configuration.
        uri: of `base_uri`.
        folder: of `open_base`.
    """
    given = {uri: folder}
    if config.model.parts:
        given[config.model.parts] = sources.local_folder(config.model.parts)
    bases = [{"uri": place, **_said(of)} for place, of in given.items()]
    storage.write_json(storage.join(config.run_uri(), BEGAN), {"bases": bases})


def _said(folder: Path) -> dict[str, Any]:
    try:
        info = storage.read_json(str(folder / INFO))
    except FileNotFoundError:
        return {}
    return {name: info[name] for name in _SAID if name in info}


def prepare_base(config: Config) -> str:
    """Makes the tiny base unless it is there; fetches another one to this node and checks all of it.

    Where another process makes the same tiny base right now, its end is waited for.

    Returns:
        The base's URI, see `base_uri`.

    Raises:
        UserError: the base that was given is not there, not whole, or does not fit the method.
    """
    if config.model.base != TINY:
        # networks and their libraries, which naming a base does without
        from siamdiff.model.base import load_base

        uri = base_uri(config, "")
        with open_base(config, uri) as folder:
            load_base(str(folder), name=config.model.base)
        return uri
    assert config.data.uri
    shard_set = ShardSet.open(config.data.uri)
    uri = base_uri(config, shard_set.digest)
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
    return storage.exists(storage.join(uri, INFO))  # written last


def _make(config: Config, shard_set: ShardSet, uri: str, held: Lease) -> None:
    from siamdiff.model.tiny import make_tiny_base

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
        info = storage.read_json(str(folder / INFO)) | {"data_digest": shard_set.digest}
        (folder / INFO).unlink()
        held.check()
        transfer.upload_folder(uri, folder)
        storage.write_json(storage.join(uri, INFO), info)


def _report(part: str, step: int, steps: int, loss: float) -> None:
    log.info("tiny base: %s step %d/%d  loss %.4f", part, step, steps, loss)
