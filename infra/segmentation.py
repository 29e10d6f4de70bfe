"""What a segmentation trains, on what, and where the result goes: looked at and claimed before anything is spent."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.inputs import ensure_data
from infra.named_sets import newest
from infra.stage import SEGMENTATION
from infra.trainings import RESULTS, Training, encoder_folder
from siamdiff import storage
from siamdiff.config import Config, digest
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import UserError
from siamdiff.records import read_record
from siamdiff.sections import NEWEST
from siamdiff.sections.segment import REAL, parse_arm
from siamdiff.segmentation import arms as rules
from siamdiff.segmentation.arms import Arm, TestSet
from siamdiff.segmentation.networks import ARCHITECTURES, build_network, is_segformer
from siamdiff.segmentation.train import Settings

SCHEMA = 1
INPUTS = "inputs.json"
NO_SET = "--segment.synthetic URI, or --segment.arms real,copy-paste"


@dataclass(frozen=True)
class Job:
    """What is trained on what, and where the result goes."""

    real: ShardSet
    synthetic: dict[str, ShardSet]  # by name
    tests: dict[str, TestSet]  # by name
    arms: list[Arm]
    trainings: list[Training]
    inputs: dict[str, Any]  # everything that the scores depend on
    warnings: list[str]
    output: str

    @property
    def digest(self) -> str:
        """Identity of the segmentation."""
        return digest(self.inputs)

    @property
    def results(self) -> str:
        """The folder of the trainings' results."""
        return storage.join(self.output, RESULTS)

    @property
    def baseline(self) -> str | None:
        """The arm that the others are compared with."""
        return REAL if len(self.arms) > 1 and any(arm.name == REAL for arm in self.arms) else None


def prepare(config: Config, demo: bool) -> Job:
    """Opens all sets, looks whether they may be used together, and claims the output.

    Raises:
        UserError: a set is missing or not complete, of another resolution or too small; a test image, or what was made
            from one, would be trained on; an output that holds another segmentation.
    """
    settings = config.segment
    assert settings.real and config.root, "resolve() comes first"
    if settings.real == config.data.uri:
        ensure_data(config, demo)
    real = ShardSet.open(settings.real)
    rules.check_real(real)
    side = real.manifest.resolution
    synthetic = _synthetic(config) if rules.takes_synthetic(settings.arms) else {}
    for name, of in synthetic.items():
        rules.check_synthetic(of)
        rules.check_side(f"the synthetic set {name}", of, side)
    tests = _tests(config, real)
    rules.check_overlap(tests, real, synthetic, side=side)
    warnings = [line for name, of in synthetic.items() for line in rules.check_origin(name, of, real, tests)]
    arms = rules.expand(settings.arms, list(synthetic))
    trainings = _trainings(config, real, synthetic, arms)
    inputs = {
        "schema": SCHEMA,
        "real": real.digest,
        "synthetic": {name: of.digest for name, of in synthetic.items()},
        "tests": {name: {"set": of.shards.digest, "keys": digest(of.keys)} for name, of in tests.items()},
        "trainings": {training.name: training.digest for training in trainings},
    }
    output = settings.output or storage.join(config.root, SEGMENTATION, digest(inputs)[:12])
    job = Job(real, synthetic, tests, arms, trainings, inputs, warnings, output)
    _claim(job)
    return job


def check_given(config: Config) -> None:
    """Looks at what is known before the first stage of an experiment, hours before it is needed.

    Raises:
        UserError: a set or an encoder is missing, more folds than will be made, a network that takes no images of
            this size.
    """
    settings = config.segment
    sets = (settings.synthetic or {}).values()
    real = [settings.real] if settings.real and settings.real != config.data.uri else []
    given = [uri for uri in sets if uri not in (NEWEST, config.generate.output)]
    for uri in (*real, *given, *(settings.tests or {}).values()):
        ShardSet.open(uri)
    for arm in settings.arms if NEWEST in sets else []:
        base, folds = parse_arm(arm)
        if base == REAL and folds > config.generate.folds:
            raise UserError(
                f"segment.arms has {arm}, generate.folds is {config.generate.folds}: give --generate.folds {folds}, or "
                "an arm with fewer folds"
            )
    if not real:
        _check_size(config, config.data.resolution)
    _encoder(config)


def check_ingested(config: Config) -> None:
    """Looks at the real set and the test sets once they are there, before anything is trained for them.

    Raises:
        UserError: too few samples, a group in several splits, a test image that would be trained on.
    """
    assert config.segment.real, "resolve() comes first"
    real = ShardSet.open(config.segment.real)
    rules.check_real(real)
    rules.check_overlap(_tests(config, real), real, {}, side=real.manifest.resolution)


def has_tests(config: Config) -> bool:
    """Whether there are images to score on; the real set is there by now."""
    assert config.segment.real, "resolve() comes first"
    return bool(config.segment.tests) or bool(ShardSet.open(config.segment.real).keys(rules.TEST_SPLIT))


def _tests(config: Config, real: ShardSet) -> dict[str, TestSet]:
    """The test sets by name, opened."""
    given = config.segment.tests or {}
    tests = {name: rules.named_test(ShardSet.open(uri), real) for name, uri in given.items()}
    return tests or rules.default_tests(real)


def _synthetic(config: Config) -> dict[str, ShardSet]:
    """The synthetic sets by name, opened."""
    sets = {}
    for name, given in sorted((config.segment.synthetic or {}).items()):
        uri = newest(config, NO_SET) if given == NEWEST else given
        sets[name] = ShardSet.open(uri)
    return sets


def _trainings(
    config: Config, real: ShardSet, synthetic: Mapping[str, ShardSet], arms: list[Arm]
) -> list[Training]:
    """Every network on every arm from every seed.

    Raises:
        UserError: a network that takes no images of this size, an encoder that does not fit, too few folds.
    """
    settings = config.segment
    size = _check_size(config, real.manifest.resolution)
    held_out = real.digest if settings.validations and real.keys(rules.VAL) else None
    encoder = _encoder(config)
    found = []
    for network in settings.networks:
        architecture = ARCHITECTURES[network]
        for arm in arms:
            count = sum(len(keys) for _, keys in arm.parts(real, synthetic))
            steps = settings.steps
            if settings.epochs is not None:
                steps = ceil(settings.epochs * count / settings.batch_size)
            for seed in settings.seeds:
                found.append(
                    Training(
                        arm=arm,
                        network=network,
                        settings=Settings(
                            steps=steps,
                            batch_size=settings.batch_size,
                            learning_rate=settings.learning_rate or architecture.learning_rate,
                            validations=settings.validations if held_out else 0,
                            seed=seed,
                        ),
                        size=size,
                        pairs=count,
                        parts=_parts(arm, real, synthetic),
                        held_out=held_out,
                        encoder=encoder if is_segformer(network) else None,
                        device="cuda" if config.cluster.gpus else "cpu",
                    )
                )
    return found


def _check_size(config: Config, side: int) -> int:
    """The side at which the networks see images that are stored at `side` pixels.

    Raises:
        UserError: one of them takes no such images.
    """
    size = config.segment.size or side
    for network in config.segment.networks:
        multiple = ARCHITECTURES[network].multiple
        if size % multiple:
            raise UserError(
                f"{network} takes images whose side is a multiple of {multiple} pixels, not {size}; give "
                f"--segment.size {max(size - size % multiple, multiple)}, or another network"
            )
    return size


def _parts(arm: Arm, real: ShardSet, synthetic: Mapping[str, ShardSet]) -> list[dict[str, Any]]:
    """What an arm consists of, by digests."""
    parts: list[dict[str, Any]] = []
    if arm.copies:
        parts.append({"set": real.digest, "split": rules.TRAIN, "times": arm.copies})
    if arm.synthetic is not None:
        parts.append({"set": synthetic[arm.synthetic].digest, "folds": arm.folds})
    return parts


def _encoder(config: Config) -> str | None:
    """Digest of the pretrained encoder, which every segformer of the configuration can take."""
    settings = config.segment
    takers = [name for name in settings.networks if is_segformer(name)]
    if settings.encoder is None:
        return None
    if not takers:
        raise UserError(
            "segment.encoder is for segformer networks, and segment.networks has none; leave it out"
        )
    try:
        with encoder_folder(settings.encoder) as folder:
            assert folder
            for name in takers:
                build_network(name, folder)
            files = sorted(
                path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin")
            )
            return digest({path.name: storage.file_sha256(path) for path in files})
    except FileNotFoundError:
        raise UserError(
            f"there is no segment.encoder {settings.encoder}; give a folder with config.json and model.safetensors"
        ) from None


class _Claimed(BaseModel):
    """inputs.json: an object with whatever the scores depend on."""

    model_config = ConfigDict(extra="allow")


def _claim(job: Job) -> None:
    """Writes inputs.json first of all, or checks that the output belongs to these inputs already."""
    uri = storage.join(job.output, INPUTS)
    if storage.put_if_absent(uri, storage.canonical_json(job.inputs) + b"\n"):
        return
    if read_record(_Claimed, uri).model_dump() != job.inputs:
        raise refused(job.output)


def refused(output: str) -> UserError:
    """The output is another segmentation's."""
    return UserError(
        f"{output} holds the segmentation of other sets or settings; give another --segment.output"
    )
