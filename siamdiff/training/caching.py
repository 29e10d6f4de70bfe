"""Makes the cache of a shard set's latents (siamdiff.data.latent_parts) with a base's VAE and text encoder.

Part by part: each is a function of the networks and of one shard, or of some prompts. infra/cache.py spreads the parts
over a cluster; `make_cache` makes them in one process.
"""

import hashlib
import importlib.metadata
import json
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from siamdiff import storage
from siamdiff.config import digest
from siamdiff.data.latent_parts import (
    MOMENTS,
    TEXTS,
    Marker,
    Origin,
    finish_cache,
    finished_parts,
    is_complete,
    planned_moments,
    planned_texts,
    read_markers,
    write_part,
)
from siamdiff.data.latents import LatentCache
from siamdiff.data.sample import Sample
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError
from siamdiff.model.base import Base, encode_prompts
from siamdiff.training.encoders import image_moments, signed_images
from siamdiff.training.speed import forbid_tf32

log = logging.getLogger(__name__)

# Of a network's configuration: who wrote it, and the precision of its file; nothing of what it computes.
_NO_MATTER = {"transformers_version", "architectures", "dtype", "torch_dtype"}
_READERS = 4  # threads that read and decode images while the VAE works
_READ_AHEAD = 64  # images

Tell = Callable[[int, int], None]  # parts done, parts in all


def origin_of(base: Base, data_digest: str) -> Origin:
    """What a cache for this base and a shard set of that digest is made from: digests over every weight."""
    tokenizer = json.loads(base.tokenizer.backend_tokenizer.to_str())
    state = {name: value for name, value in tokenizer.items() if name not in ("truncation", "padding")}
    state["length"] = base.tokenizer.model_max_length  # to which prompts are cut and padded
    return Origin(
        data=data_digest,
        vae=_network_digest(base.vae, dict(base.vae.config)),
        text_encoder=_network_digest(base.text_encoder, base.text_encoder.config.to_dict()),
        tokenizer=digest(state),
    )


def _network_digest(network: torch.nn.Module, config: dict[str, Any]) -> str:
    """SHA-256 of what a network computes with: its configuration, and every weight by name."""
    matters = {name: v for name, v in config.items() if not name.startswith("_") and name not in _NO_MATTER}
    content = hashlib.sha256(storage.canonical_json(matters))
    for name, weights in sorted(network.state_dict().items()):
        content.update(f"{name} {weights.dtype} {list(weights.shape)}\n".encode())
        content.update(weights.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def open_cache(base: Base, shard_set: ShardSet) -> LatentCache:
    """The cache of a set for this base, all of it brought to this node and checked.

    Raises:
        UserError: there is none, or it is not complete.
        SiamdiffError: it has a hole, or a part is missing or damaged.
    """
    origin = origin_of(base, shard_set.digest)
    return LatentCache.open(origin.uri(shard_set.uri), shard_set, origin)


class PartMaker:
    """VAE and text encoder on a device, and the cache that they make parts of.

    Args:
        base: its VAE and text encoder are taken over.
        device: where they run.
        shard_set: the set that the cache is of.
        uri: of the cache.
    """

    def __init__(self, base: Base, device: torch.device, shard_set: ShardSet, uri: str) -> None:
        forbid_tf32()
        self.base, self.device, self.shard_set, self.uri = base, device, shard_set, uri
        networks: list[torch.nn.Module] = [base.vae, base.text_encoder]
        for network in networks:
            network.to(device).eval().requires_grad_(False)
        self._shards = planned_moments(shard_set)

    def moments(self, shard: str) -> Marker:
        """Encodes the images of a shard, one at a time, and writes the part.

        Raises:
            SiamdiffError: the shard is missing or damaged, moments are not finite, or another part lies there.
        """
        rows, prompts = [], set()
        for sample in self._samples(self._shards[shard]):
            image = signed_images(torch.from_numpy(sample.image)[None].to(self.device))
            moments = image_moments(self.base, image[0])
            if not torch.isfinite(moments).all():
                raise SiamdiffError(
                    f"the VAE gives values that are not finite for the sample {sample.meta.key}"
                )
            rows.append(moments)
            prompts.add(sample.meta.prompt)
        part = torch.stack(rows).numpy()  # (n, 2, 4, h, w)
        return write_part(self.uri, MOMENTS, shard, part, sorted(prompts), self._made_by())

    def texts(self, name: str, prompts: Sequence[str]) -> Marker:
        """Encodes prompts, one at a time, and writes the part.

        Raises:
            SiamdiffError: states are not finite, or another part lies there.
        """
        base = self.base
        rows = [encode_prompts(base.tokenizer, base.text_encoder, [prompt]).cpu() for prompt in prompts]
        part = torch.cat(rows)  # (n, L, D)
        if not torch.isfinite(part).all():
            raise SiamdiffError(
                f"the text encoder gives values that are not finite for the prompts of part {name}"
            )
        return write_part(self.uri, TEXTS, name, part.numpy(), prompts, self._made_by())

    def _samples(self, keys: Sequence[str]) -> Iterator[Sample]:
        with ThreadPoolExecutor(_READERS) as pool:
            for first in range(0, len(keys), _READ_AHEAD):
                yield from pool.map(self.shard_set.read, keys[first : first + _READ_AHEAD])

    def _made_by(self) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else platform.machine(),
            "instructions": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "threads": None if on_gpu else torch.get_num_threads(),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("siamdiff", "torch", "diffusers", "transformers")
            },
        }


def missing_moments(uri: str, shard_set: ShardSet) -> list[str]:
    """Shards whose moments are not there."""
    return sorted(planned_moments(shard_set).keys() - finished_parts(uri, MOMENTS))


def missing_texts(uri: str, shard_set: ShardSet) -> dict[str, list[str]]:
    """{part: its prompts} of the text states that are not there; known once all moments are."""
    markers = read_markers(uri, MOMENTS, planned_moments(shard_set))
    planned = planned_texts(prompt for marker in markers for prompt in marker.prompts)
    there = finished_parts(uri, TEXTS)
    return {name: prompts for name, prompts in planned.items() if name not in there}


def make_cache(base: Base, shard_set: ShardSet, device: torch.device, tell: Tell) -> str:
    """Makes what is missing of a cache in this process.

    Args:
        base: its VAE and text encoder are taken over.
        shard_set: the set that the cache is of.
        device: where they run.
        tell: called as parts get done.

    Returns:
        The cache's URI.

    Raises:
        SiamdiffError: see `PartMaker`.
    """
    origin = origin_of(base, shard_set.digest)
    uri = origin.uri(shard_set.uri)
    if is_complete(uri, shard_set, origin):
        log.info("the cache %s is complete", uri)
        return uri
    maker = PartMaker(base, device, shard_set, uri)
    shards = missing_moments(uri, shard_set)
    for done, shard in enumerate(shards, 1):
        maker.moments(shard)
        tell(done, len(shards))
    for name, prompts in missing_texts(uri, shard_set).items():
        maker.texts(name, prompts)
    manifest = finish_cache(uri, shard_set, origin)
    log.info("cache of %d samples: %s", manifest.count, uri)
    return uri
