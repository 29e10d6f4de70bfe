"""A small experiment at rest, as the stages leave one: sets, a run, an evaluation, a segmentation, experiment.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from siamdiff import storage
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import Synthetic, make_sample
from siamdiff.data.shards import shard_name, write_shard
from siamdiff.data.shardset import ShardSet, finish_set
from siamdiff.data.transforms import apply
from siamdiff.evaluation.agreement import SIZES, Agreement, OfSize
from siamdiff.evaluation.copies import Training, calibrate, unit
from siamdiff.evaluation.features import EFFICIENTNET
from siamdiff.evaluation.figures import Recipe, compare
from siamdiff.report.record import ExperimentRecord, Setting
from siamdiff.segmentation.metrics import DEFINITIONS
from siamdiff.segmentation.statistics import tabulate
from tests.sets import small_config
from tests.tiny_model import RESOLUTION, write_masks

REAL, SYNTHETIC = 10, 8
MOVED = {"translate": {"x": 0.1, "y": 0.0}}
ENLARGED = {"scale": {"factor": 1.5}}
BENT = {"boundary": {"amplitude": 0.9, "spacing": 0.75, "seed": 1}}
COMBINED = {"combine": {"parent": "", "lesions": [0]}}  # its parent is a real key
ARMS = {"real": 0.0, "real+1": 0.02, "real+2": 0.03, "copy-paste": 0.0, "synthetic": -0.2}
IMAGES = 12
MODEL_SAMPLER = {"name": "ddim", "guide": "mask"}


def write_experiment(
    folder: Path,
    *,
    demo: bool = False,
    gains: dict[str, float] = ARMS,
    settings: int = 1,
    tsne: bool = True,
    noise: float = 0.0,
    groups: int = 60,
    **origin: str,
) -> str:
    """The URI of an experiment whose stages are all there."""
    root = str(folder)
    real = write_masks(f"{root}/data", REAL, splits=("train", "val", "test"))
    synthetic = write_synthetic(f"{root}/synthetic/a", real, **origin)
    write_run(f"{root}/runs/a", root)
    made = []
    for i in range(settings):
        write_evaluation(f"{root}/evaluation/{i}", real, synthetic, seed=i, tsne=tsne, groups=groups)
        write_segmentation(f"{root}/segmentation/{i}", real, synthetic, gains, noise, seed=i)
        made.append(
            Setting(
                name=f"table5-{i + 1}" if settings > 1 else "configuration",
                meaning="as it is",
                fields={"model.control": "dhi"},
                outputs={
                    "ingest": real.uri,
                    "train": f"{root}/runs/a",
                    "generate": synthetic.uri,
                    "evaluate": f"{root}/evaluation/{i}",
                    "segment": f"{root}/segmentation/{i}",
                },
                seconds={"train": 100.0, "generate": 20.0},
            )
        )
    return write_record(f"{root}/experiments/0", made, demo)


def write_record(uri: str, settings: list[Setting], demo: bool = False) -> str:
    record = ExperimentRecord(inputs_digest="ab" * 32, sweep=[], demo=demo, settings=settings)
    storage.write_bytes(f"{uri}/experiment.json", record.model_dump_json().encode())
    return uri


def write_synthetic(uri: str, real: ShardSet, masks: str = "", trained_on: str = "") -> ShardSet:
    """Samples of a model, by number: 0 to 2 with the parent's own mask, 3 with one that is called moved and is only
    mirrored, 4 bent and moved, 5 moved and enlarged, 6 combined; 7 is a real pair of copy-paste, and 0 a copy by the
    evaluation's limits.

    `masks` and `trained_on` are digests of other sets that its masks and its model come from."""
    samples = []
    keys = real.keys("train")
    for i, parent in enumerate(keys[:SYNTHETIC]):
        of = real.read(parent)
        image, mask, transform = render_phantom(5, i, RESOLUTION)[0], of.mask, {}
        if i == 3:
            mask, transform = mask[:, ::-1].copy(), MOVED
        if i in (4, 5):
            transform = MOVED | (BENT if i == 4 else ENLARGED)
            mask = apply(mask, transform)
        if i == 6:
            mask, transform = np.roll(mask, 3, 0), {"combine": COMBINED["combine"] | {"parent": keys[-1]}}
        if i in (0, 7):
            image = of.image
        sampler = {"name": "none"} if i == 7 else MODEL_SAMPLER
        origin = Synthetic(
            parent=parent, fold=i % 2, transform=transform, seed=i, model_digest="m", sampler=sampler
        )
        about: dict[str, Any] = {
            "prompt": "a polyp",
            "group": parent,
            "source_size": (RESOLUTION, RESOLUTION),
        }
        samples.append(
            make_sample(
                image, mask, split="train", key=key_of(i), image_format="png", synthetic=origin, **about
            )
        )
    write_shard(uri, shard_name("fold0", 0), samples)
    terms = {"license": "CC-BY-4.0", "permitted_use": "research"}
    about = {"kind": "synthetic", "resolution": RESOLUTION, "demo": False} | terms
    made_from = {
        "masks": {"digest": masks or real.digest},
        "model": {"data_digest": trained_on or real.digest},
    }
    finish_set(uri, [shard_name("fold0", 0)], made_from=made_from, **about)
    return ShardSet.open(uri)


def key_of(i: int) -> str:
    """Of a synthetic sample."""
    return f"5{i:015x}"


def write_run(uri: str, root: str) -> None:
    rows = [
        {"step": k, "L_m": 1 / k, "L_i": 1 / k, "L_c": 0.01, "L_m_prime": 0.1 * (k > 2), "L": 2 / k}
        for k in range(1, 7)
    ]
    rows[-1]["validation_loss"] = 0.2
    config = small_config(root, cluster={"gpus": 1, "price": 2.0})
    storage.write_bytes(f"{uri}/metrics.jsonl", lines(rows))
    storage.write_bytes(f"{uri}/config.yaml", config.to_yaml().encode())
    storage.write_json(f"{uri}/pinned.json", config.pinned())
    storage.write_json(f"{uri}/model/siamdiff.json", {"model_digest": "cd" * 32, "versions": {"torch": "2"}})


def write_evaluation(
    uri: str, real: ShardSet, synthetic: ShardSet, *, seed: int, tsne: bool, groups: int = 60
) -> None:
    """`groups`: of the 60 images that the limits of copies are set by."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 4)), rng.normal(0.5, size=(40, 4))
    figures, warnings = compare(features[1], features[0], EFFICIENTNET, "real, train", Recipe(resamples=20))
    keys, training = synthetic.keys(), real.keys("train")
    limits = calibrate(
        Training(unit(features[0]), unit(features[0])), [str(i % groups) for i in range(60)], 0.05
    )
    near = [
        {"key": key, "training": training[i], "features": 0.1, "pixels": 0.2, "copy": key == key_of(0)}
        for i, key in enumerate(keys)
    ]
    sizes = [OfSize(name, up_to, 0.7, 3, 0.9, 2) for name, up_to in SIZES]
    agreement = Agreement(0.7, len(keys), 0.9, 10, 10, 3, 16, 0, 128, "a network", "Dice", sizes, {})
    result = {
        "count": len(keys),
        "figures": [figure.as_dict() for figure in figures],
        "mask_agreement": agreement.as_dict(),
        "copies": {"rate": 1 / 8, "count": 1, "quantile": 0.05, "limits": limits.as_dict(), "nearest": near},
        "warnings": [],
        "shown": keys,
    }
    metrics = {
        "inputs_digest": f"{seed}" * 64,
        "demo": False,
        "sets": {"real": described(real), "synthetic": {"synthetic": described(synthetic)}},
        "results": {"synthetic": result},
        "warnings": [*warnings, f"{training[0]} of {real.uri} is odd; left out of /raw/a: 1"],
        "versions": {"torch": "2"},
    }
    if tsne:
        points = [("real", key) for key in training] + [("synthetic", key) for key in keys]
        rows = [{"set": of, "key": key, "x": rng.normal(), "y": rng.normal()} for of, key in points]
        storage.write_bytes(f"{uri}/tsne.jsonl", lines(rows))
        counts = {"real": len(training), "synthetic": len(keys)}
        about = {
            "extractor": "efficientnet_lite0",
            "perplexity": 5.0,
            "seed": 0,
            "definition": "Both together.",
        }
        metrics["tsne"] = about | {"counts": counts}
    storage.write_bytes(f"{uri}/copies.jsonl", lines([{"set": "synthetic"} | row for row in near]))
    dice = [{"set": "synthetic", "key": key, "dice": 0.7} for key in keys]
    storage.write_bytes(f"{uri}/agreement.jsonl", lines(dice))
    storage.write_json(f"{uri}/metrics.json", metrics)


def write_segmentation(
    uri: str, real: ShardSet, synthetic: ShardSet, gains: dict[str, float], noise: float, *, seed: int
) -> None:
    """Arms of two seeds, `noise` above and below, whose images all differ from the baseline's by about their gain."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.5, 0.9, IMAGES)
    scores = {
        arm: {
            "test": [
                {name: base + off + gain + rng.normal(0, 0.002, IMAGES) for name in DEFINITIONS}
                for off in (noise, -noise)
            ]
        }
        for arm, gain in gains.items()
    }
    rows = [
        {"network": "unet-small", "seeds": 2, "training_pairs": 10} | row for row in tabulate(scores, "real")
    ]
    metrics = {
        "inputs_digest": f"{seed}" * 64,
        "demo": False,
        "sets": {
            "real": described(real),
            "synthetic": {"synthetic": described(synthetic)},
            "tests": {"test": described(real)},
        },
        "patient_separated": False,
        "baseline": "real",
        "definitions": DEFINITIONS,
        "results": rows,
        "warnings": [f"not patient-separated: {real.uri} has no groups"],
        "versions": {"monai": "1"},
    }
    storage.write_json(f"{uri}/metrics.json", metrics)


def described(shards: ShardSet) -> dict[str, Any]:
    manifest = shards.manifest.model_dump(mode="json")
    return {"uri": shards.uri, "digest": shards.digest} | manifest


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
