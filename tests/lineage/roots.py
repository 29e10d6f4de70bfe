"""A root with all that the stages leave, small: a real run, and what needs a cluster as it would be written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.sample import Synthetic, make_sample
from siamdiff.data.shards import shard_name, write_shard
from siamdiff.data.shardset import ShardSet, finish_set
from siamdiff.labels import labelled
from siamdiff.lineage.answer import Answer
from siamdiff.run import lease, pin
from siamdiff.training import bases
from siamdiff.training.context import SingleProcess
from siamdiff.training.engine import TorchEngine
from siamdiff.training.loop import train
from tests.sets import small_config, write_phantoms

STEPS, BATCH = 2, 2


def config_of(root: str, run: str = "r") -> Config:
    """Two steps of two samples: most of the ten training samples are never consumed."""
    steps = {"run": run, "steps": STEPS, "batch_size": BATCH, "checkpoint_steps": 1, "checkpoints_kept": 5}
    return small_config(root, train=steps)


def write_private(root: str, keys: list[str]) -> None:
    """Names of files, as ingest keeps them: patient-00.png is of the first key, scan 1 a copy of it."""
    rows = [
        {
            "key": key,
            "image": f"images/patient-{i:02d}.png",
            "mask": f"masks/patient-{i:02d}.png",
            "group": None,
        }
        for i, key in enumerate(keys)
    ]
    storage.write_bytes(f"{root}/private/data/keys.jsonl", lines(rows))
    left_out = [
        {
            "files": ["images/scan 1.png"],
            "reason": "exact duplicate",
            "detail": f"of {rows[0]['image']}",
        },
        {"files": ["images/blank.png"], "reason": "empty mask", "detail": ""},
    ]
    storage.write_bytes(f"{root}/private/data/rejected.jsonl", lines(left_out))


def train_run(root: str, real: ShardSet) -> str:
    """A real run on a set, with the tiny base made from it; returns its URI."""
    config = config_of(root)
    base = bases.prepare_base(config)
    pin(config.run_uri(), config, {"data": real.digest, "base": bases.identity(config, base)})
    with lease(config.run_uri()) as held:
        train(config, base, held, SingleProcess(torch.device("cpu")), TorchEngine.of)
    return config.run_uri()


def write_synthetic(
    uri: str,
    real: ShardSet,
    parents: list[str],
    model: dict[str, Any] | None,
    leaked: str = "",
    **settings: Any,
) -> ShardSet:
    """A set of one sample for each of some masks; without a model, of copies of the pairs, as that of `leaked` is."""
    of_model = model["digest"] if model else "copy-paste"
    samples = []
    for i, parent in enumerate(parents):
        pair = real.read(parent)
        origin = Synthetic(
            parent=parent, fold=0, transform={}, seed=i, model_digest=of_model, sampler={"name": "none"}
        )
        about: dict[str, Any] = {
            "prompt": "a polyp",
            "group": parent,
            "source_size": (32, 32),
            "key": child_of(parent),
        }
        noise = np.random.default_rng(i).integers(0, 256, pair.image.shape, np.uint8)
        image = noise if model and parent != leaked else pair.image
        samples.append(
            make_sample(image, pair.mask, split="train", image_format="png", synthetic=origin, **about)
        )
    name = shard_name("fold0", 0)
    write_shard(uri, name, samples)
    chosen = {"split": "train", "method": "model" if model else "copy-paste"} | settings
    plan = {"masks": real.digest, "model": of_model, "training": real.digest, "settings": chosen}
    storage.write_json(f"{uri}/plan.json", plan)
    terms = {"license": "CC-BY-NC-4.0", "permitted_use": "any"}
    made_from = {"masks": {"digest": real.digest}, "plan": plan, "terms": {"masks": terms}}
    made_from |= {"model": model} if model else {}
    finish_set(uri, [name], kind="synthetic", resolution=32, demo=False, made_from=made_from, **terms)
    return ShardSet.open(uri)


def child_of(parent: str) -> str:
    """Key of the sample that is made for a mask."""
    return f"f{parent[1:]}"


def write_measured(root: str, real: ShardSet, synthetic: ShardSet) -> None:
    """What evaluation, segmentation and an experiment of these sets leave, with their caches."""
    digests = {
        "sets": {"real": {"digest": real.digest}, "synthetic": {"synthetic": {"digest": synthetic.digest}}}
    }
    near = real.keys("train")[:1]
    shown = [child_of(near[0])]
    result = {
        "shown": shown,
        "contact_sheet": "contact_sheet-synthetic.png",
        "nearest_sheet": "nearest-synthetic.png",
    }
    result |= {"copies": {"nearest": [{"key": shown[0], "training": near[0]}]}}
    folder = f"{root}/evaluation/e"
    storage.write_bytes(f"{folder}/tsne.jsonl", lines([{"set": "real", "key": key} for key in near]))
    for name in ("contact_sheet-synthetic.png", "nearest-synthetic.png", "table.csv"):
        storage.write_bytes(f"{folder}/{name}", b"of the stage")
    storage.write_json(f"{folder}/metrics.json", digests | {"results": {"synthetic": result}})
    write_cache(f"{root}/evaluation/cache/features-1.safetensors", real, real.keys("train"))
    write_cache(f"{root}/evaluation/cache/segmenter-1.safetensors", real, real.keys("train"))
    kept = {"sha256": "ab" * 32, "limits": {}, "set": real.digest}
    storage.write_json(f"{root}/synthetic/cache/copies-1.json", kept)
    storage.write_bytes(f"{root}/synthetic/cache/copies-{'ab' * 8}.safetensors", b"vectors")
    inputs = {
        "real": real.digest,
        "synthetic": {"synthetic": synthetic.digest},
        "tests": {"test": {"set": real.digest, "keys": "x"}},
        "trainings": {"unet-small--real--seed0": "t0", "unet-small--synthetic--seed0": "t1"},
    }
    storage.write_json(f"{root}/segmentation/s/inputs.json", inputs)
    storage.write_json(f"{root}/segmentation/s/metrics.json", {})
    for training in ("t0", "t1"):
        storage.write_bytes(f"{root}/segmentation/trainings/{training}/network.safetensors", b"weights")
    outputs = {"train": f"{root}/runs/r", "evaluate": folder, "segment": f"{root}/segmentation/s"}
    record = {"settings": [{"outputs": outputs}]}
    storage.write_json(f"{root}/experiments/x/experiment.json", record)
    storage.write_bytes(f"{root}/experiments/x/report.html", b"<p>a page</p>")


def write_cache(uri: str, of: ShardSet, keys: list[str]) -> None:
    """A file of features, or of weights, that says what it is of."""
    label = labelled({"set": of.digest, "samples": digest(keys)})
    storage.write_bytes(uri, safetensors.numpy.save({"features": np.zeros((1, 1), np.float32)}, label))


def write_root(folder: Path) -> str:
    """All of it; the URI of the root."""
    root = str(folder)
    real = write_phantoms(f"{root}/data")
    write_private(root, real.keys())
    run = train_run(root, real)
    model = storage.read_json(f"{run}/model/siamdiff.json")
    of_model = {"digest": model["model_digest"], "data_digest": real.digest}
    synthetic = write_synthetic(f"{root}/synthetic/a", real, real.keys("train")[:2], of_model)
    write_measured(root, real, synthetic)
    return root


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def found(answer: Answer, key: str | None = None) -> dict[str, set[str]]:
    """Relation -> what of the root it was found of, "KIND PLACE"."""
    trail = next(trail for trail in answer.trails if key in (None, trail.key))
    names: dict[str, set[str]] = {}
    for of in trail.findings:
        place = of.uri.removeprefix(answer.roots[0]).lstrip("/")
        names.setdefault(of.relation.name, set()).add(f"{of.kind} {place}")
    return names


def places(answer: Answer, relation: str) -> set[str]:
    return {name.rpartition(" ")[2] for name in found(answer).get(relation, set())}
