"""What breaks first as GPUs and images grow, each with the number at which it does, and how well the model is held."""

from dataclasses import dataclass

from benchmarks.scaling_generation import (
    CHECK_SECONDS,
    GATHER_BYTES,
    GATHER_SECONDS,
    LIST_SECONDS,
    PAGE,
    PER_SHARD,
    PLAN_BYTES,
    Generation,
)
from benchmarks.scaling_training import (
    ACTIVE,
    AFTER,
    CHECKPOINT_SECONDS,
    PASSES,
    READ_PER_PROCESS,
    READERS,
    WRITE_SECONDS,
    Node,
    Setting,
    best,
    checkpoint_bytes,
)
from siamdiff.sections import Precision

BATCH, MASKS = 48, 1450  # the paper's
DRIVER_MEMORY = 64e9  # bytes, an assumption: of the machine that plans and finishes
NODE_MEMORY = 512e9  # bytes, an assumption: of a machine with 8 GPUs
# Measured on 29 November 2026, 100,000 shards: seconds to open dataset.json, for each; traced bytes of a listing.
OPEN_SECONDS, LISTED_BYTES = 3.5e-5, 2_980
PATIENCE = {"open": 10.0, "verify": 86_400.0, "finish": 3_600.0}  # seconds after which people call it broken
PUTS_PER_SECOND = 3_500  # of a prefix, as AWS documents for S3


@dataclass(frozen=True)
class Limit:
    """Something that breaks."""

    at: float  # number of GPUs or images
    of: str  # "GPUs" or "images"
    what: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """A figure of docs/performance.md beside what the model says."""

    what: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured; 0 where both are."""
        return (self.predicted - self.measured) / self.measured if self.measured else self.predicted


def image_limits() -> list[Limit]:
    """As images grow, the first first; independent of the GPU."""
    readers = 8 * (1 + READERS)  # processes of a machine that trains on the set; each opens it
    memory = NODE_MEMORY / readers
    limits = [
        Limit(
            PER_SHARD * DRIVER_MEMORY / GATHER_BYTES,
            "images",
            f"the driver holds the rows of every marker until they are sorted: {DRIVER_MEMORY / 1e9:.0f} GB are full",
            "index written part by part, sorted parts merged",
        ),
        Limit(
            PER_SHARD * PATIENCE["finish"] / GATHER_SECONDS,
            "images",
            "reading the markers takes the driver, alone, an hour, GPUs idle",
            "the audit, which reads each marker anyway, hands its rows on; GPUs released before",
        ),
        Limit(
            PER_SHARD * PATIENCE["open"] / OPEN_SECONDS,
            "images",
            "opening the set takes each process 10 s, for dataset.json alone (one JSON of all shards)",
            "larger shards: generate.shard_size 256 moves it to four times as many images",
        ),
        Limit(
            memory / PLAN_BYTES,
            "images",
            f"training on the set: its index in each of {readers} processes of a machine of {NODE_MEMORY / 1e9:.0f} GB",
            "the index mapped from the node's cache, shared by its processes",
        ),
        Limit(
            PATIENCE["verify"] / CHECK_SECONDS["png"],
            "images",
            "python -m siamdiff verify takes one core a day (the audit of generate is spread over the cluster)",
            "the audit's tasks for verify, or a sample of the shards",
        ),
        Limit(
            4 * DRIVER_MEMORY / PLAN_BYTES,
            "images",
            f"planning from as many masks / 4 as images: {DRIVER_MEMORY / 1e9:.0f} GB of index and keys",
            "fewer masks in more folds: memory goes by masks alone",
        ),
        Limit(
            PER_SHARD * DRIVER_MEMORY / LISTED_BYTES,
            "images",
            "listing the output: the client's objects fill the driver's memory",
            "listing page by page",
        ),
        Limit(
            PER_SHARD * PATIENCE["finish"] / (2 * LIST_SECONDS / PAGE),
            "images",
            "one look at the output takes an hour of LIST",
            "listing fold by fold, side by side",
        ),
    ]
    return sorted(limits, key=lambda limit: limit.at)


def fold_limit(node: Node, precision: Precision, share: float | None) -> Limit:
    """From which number of folds on samplers wait for their readers, for the paper's masks."""
    folds = 1
    while (job := Generation(node, 1, folds * MASKS, MASKS, precision, share)).reading <= job.drawing:
        folds += 1
    return Limit(
        folds * MASKS,
        "images",
        f"{MASKS:,} masks in {folds} transformed folds: readers, who draw the masks of all earlier folds again, take "
        "longer than the GPU",
        "more masks; drawn masks kept (18 kB each, a bit a pixel); more readers for each sampler put it off",
    )


def gpu_limits(node: Node, precision: Precision, share: float | None) -> list[Limit]:
    """As GPUs grow, the first first."""
    limits = [
        Limit(
            BATCH,
            "GPUs",
            f"a batch of {BATCH} has no sample for one more: train.workers above train.batch_size is refused; where 48 "
            "does not divide, samples of weight 0 fill up (40 GPUs carry 80)",
            "a larger batch, which is another training than the paper's",
        )
    ]
    scatter = "use_multi_rank_bucket_allreduce false (2/3 of the bytes), overlap_comm, gradients of 16 bit"
    named = {
        0: ("stage 0: all-reduce", "more samples a GPU"),
        2: ("stages 1, 2: all-reduce of buckets, then gathering of weights", scatter),
        3: ("stage 3: gathering of every weight twice, module by module", "stage 2 as long as memory does"),
    }
    for stage, (name, remedy) in named.items():
        if at := _half(node, stage, precision, share):
            what = f"batch {BATCH}, {name}: what shows of it takes longer than the passes"
            limits.append(Limit(at, "GPUs", what, remedy))
    generation = Generation(node, 1, 10**6, 10**6, precision, share)
    limits.append(
        Limit(
            PUTS_PER_SECOND * PER_SHARD / 2 * generation.an_image,
            "GPUs",
            f"generation writes {PUTS_PER_SECOND:,} objects a second under one prefix",
            "larger shards",
        )
    )
    return sorted(limits, key=lambda limit: limit.at)


def _half(node: Node, stage: int, precision: Precision, share: float | None) -> int | None:
    """GPUs from which on the batch's communication that shows takes longer than its passes."""
    for gpus in range(2, BATCH + 1):
        step = best(Setting(node, gpus, stage, BATCH, precision, share))
        if step and step.exposed > step.passes:
            return gpus
    return None


def shares(node: Node, precision: Precision, share: float | None) -> dict[str, float]:
    """What does not break, as a share of what there is: above 1 it would."""
    plain = PASSES[False]
    mean = plain.plain + AFTER * ACTIVE * (plain.augmented - plain.plain)
    readers = READERS * READ_PER_PROCESS["png"] * mean / (node.device.peak(precision) * 1e12)
    without = best(Setting(node, 8, 2, BATCH, precision, share, cache=False, images=10**6))
    generation = Generation(node, 64, 10**8, 10**8, precision, share)
    found = {
        "share of the peak at which two readers of PNG no longer do": readers,
        "S3, checkpoint written by one process, share of the five minutes": WRITE_SECONDS["S3"]
        * checkpoint_bytes(2)
        / 1e9
        / CHECKPOINT_SECONDS,
        "generation, 64 GPUs, upload, share of one 25 Gb/s link": generation.rate
        * generation.size
        / generation.images
        / 3.125e9,
        "generation, PNG encoding, share of an actor's one thread": 0.0179 / generation.an_image,
    }
    if without:
        found["training, 8 GPUs, the VAE without a cache, share of the step"] = (
            without.encoding / without.seconds
        )
    return found
