"""Bulk generation reckoned: seconds, GPU hours, objects, bytes, requests and dollars of a number of images.

Objects and calls of the store follow from the code (siamdiff.data.shards, siamdiff.data.manifest, infra.generate,
infra.audit); tests/test_scaling.py counts them while a set is made. One call of siamdiff.storage is these requests of
the S3 client: a write one PUT; a read of bytes a HEAD and a GET; a download one GET; a listing one LIST for each 1,000
objects.
"""

import math
from dataclasses import dataclass

from benchmarks.scaling_training import Node
from siamdiff.estimate.devices import UTILISATION
from siamdiff.run import RENEW_SECONDS
from siamdiff.sections import ImageFormat, Precision

# Counted by siamdiff.estimate at Stable Diffusion 1.5's size and 384 x 384, each for one image.
SAMPLE = 56.30096e12  # FLOP of 50 DDIM steps, both branches of the guidance
DECODE = 1.40596e12  # FLOP of the VAE's decoder, always fp32
MODEL_BYTES = 4 * 1_429_691_819  # model/: UNet, control, VAE and text encoder in fp32

# Measured on 29 November 2026 on 2 cores at load 3: 64 images of Kvasir-SEG at 384 x 384, processor seconds.
SAMPLE_BYTES: dict[ImageFormat, int] = {"png": 199_680, "jpg": 55_840}  # of a tar for each of its samples
ENCODE_SECONDS: dict[ImageFormat, float] = {"png": 0.0179, "jpg": 0.0036}
CHECK_SECONDS: dict[ImageFormat, float] = {
    "png": 0.0075,
    "jpg": 0.0029,
}  # the last look, without the plan's masks
MARKER_BYTES = 39_280  # of 64 samples
INDEX_BYTES = 102  # a row of index.parquet: 82 of them are hashes and keys
ENTRY_BYTES = 169  # a shard in dataset.json
GATHER_SECONDS = 0.0048  # the driver, for a marker: reads, parses, makes rows
GATHER_BYTES = 73_600  # of its memory, held for each marker until the index is written
# A reader draws the masks of all earlier folds again, to differ from them: seconds for a mask of fold f are
# FIRST + LATER f + COMPARED f^2, fitted to folds 0 to 40 of phantoms of 384 x 384 within 13 %; beyond, extrapolated.
READ_FIRST, READ_LATER, READ_COMPARED = 0.017, 0.0135, 0.00014
# docs/performance.md, 23 November 2026: 1,000,000 masks in 4 folds; 10,000 finished shards in S3.
PLAN_SECONDS, PLAN_BYTES = 2.3e-6, 500  # for each mask, libraries not counted
LIST_SECONDS = 2.4 / 20  # for each 1,000 objects

STATUS_SECONDS = 5.0  # between two writes of status.json, which has two places (infra.fleet, infra.stage)
JOURNAL_SECONDS = 10.0  # between two writes of the job's journal
PAGE = 1000  # objects of a LIST
PER_SHARD = 64  # generate.shard_size's default
MASKS_PER_SHARD = 256  # data.shard_size's default
# plan.json, config.yaml, gates.json, status.json, index.parquet, dataset.json, README.md
OTHER_OBJECTS = 7
AUDIT_CORES = 8  # beside each GPU, an assumption: one look at a shard takes one of them

# AWS list price, us-east-1, S3 Standard: an assumption; every other store has its own.
PUT_PRICE, GET_PRICE = 0.005 / 1000, 0.0004 / 1000  # LIST costs as PUT, HEAD as GET
MONTH_PRICE = 0.023e-9  # of a byte for a month


@dataclass(frozen=True)
class Requests:
    """What the store is asked."""

    put: int
    get: int
    head: int
    list: int

    @property
    def all(self) -> int:
        """Their number."""
        return self.put + self.get + self.head + self.list

    @property
    def price(self) -> float:
        """Dollars."""
        return (self.put + self.list) * PUT_PRICE + (self.get + self.head) * GET_PRICE


@dataclass(frozen=True)
class Generation:
    """A bulk generation from masks that lie in the store; `masks` are those of each fold."""

    node: Node
    gpus: int
    images: int
    masks: int
    precision: Precision = "bf16"
    share: float | None = (
        None  # of the GPU's peak that sampling reaches [siamdiff.estimate.devices.UTILISATION]
    )
    image_format: ImageFormat = "png"

    @property
    def folds(self) -> int:
        """Images of each mask."""
        return math.ceil(self.images / self.masks)

    @property
    def shards(self) -> int:
        """As siamdiff.sampling.plan.Plan counts them: a fold begins a new one."""
        return self.folds * math.ceil(self.masks / PER_SHARD)

    @property
    def objects(self) -> int:
        """In the set's folder when it is complete."""
        return 2 * self.shards + OTHER_OBJECTS

    @property
    def size(self) -> int:
        """Bytes in the set's folder."""
        marker = MARKER_BYTES / PER_SHARD
        return round(
            self.images * (SAMPLE_BYTES[self.image_format] + marker + INDEX_BYTES) + self.manifest_bytes
        )

    @property
    def manifest_bytes(self) -> int:
        """Of dataset.json."""
        return ENTRY_BYTES * self.shards

    @property
    def drawing(self) -> float:
        """Seconds of a GPU for an image; its PNG is encoded meanwhile by a thread."""
        device = self.node.device
        rate = device.peak(self.precision) * 1e12 * (self.share or UTILISATION[self.precision])
        return max(
            SAMPLE / rate + DECODE / (device.fp32 * 1e12 * UTILISATION["fp32"]),
            ENCODE_SECONDS[self.image_format],
        )

    @property
    def reading(self) -> float:
        """Seconds of a reader for a mask, the mean over folds that are all of transformed masks."""
        last = self.folds - 1
        return READ_FIRST + READ_LATER * last / 2 + READ_COMPARED * last * (2 * last + 1) / 6

    @property
    def an_image(self) -> float:
        """Seconds between two images of a sampler; each has one reader's work, who goes on beside it."""
        return max(self.drawing, self.reading)

    @property
    def rate(self) -> float:
        """Images/s of all GPUs."""
        return self.gpus / self.an_image

    @property
    def sampling_seconds(self) -> float:
        """Until the last shard is there: the GPU that has one more than others ends last."""
        return math.ceil(self.shards / self.gpus) * PER_SHARD * self.an_image

    @property
    def planning_seconds(self) -> float:
        """The driver alone, before: masks chosen, the output listed."""
        return self.masks * PLAN_SECONDS + self.list_pages * LIST_SECONDS

    @property
    def audit_seconds(self) -> float:
        """Every shard read and decoded again on the cluster's cores."""
        return self.images * CHECK_SECONDS[self.image_format] / (AUDIT_CORES * self.gpus)

    @property
    def finishing_seconds(self) -> float:
        """The driver alone, after: lists, reads every marker, writes index.parquet and dataset.json."""
        return self.shards * GATHER_SECONDS + self.list_pages * LIST_SECONDS

    @property
    def seconds(self) -> float:
        """Of the whole job."""
        return self.planning_seconds + self.sampling_seconds + self.audit_seconds + self.finishing_seconds

    @property
    def gpu_hours(self) -> float:
        """As long as the GPUs are held: from the first look at the output to dataset.json."""
        return self.gpus * self.seconds / 3600

    @property
    def list_pages(self) -> int:
        """LIST requests of one look at a finished output."""
        return math.ceil(2 * self.shards / PAGE)

    def requests(self) -> Requests:
        """Of the whole job: each shard's, and those that go by time."""
        mine = shard_requests(self.shards)
        renewals = math.floor(self.seconds / RENEW_SECONDS)
        statuses = 2 * math.floor(self.sampling_seconds / STATUS_SECONDS)
        journal = math.floor(self.seconds / JOURNAL_SECONDS)
        nodes = math.ceil(self.gpus / self.node.gpus)
        masks = nodes * math.ceil(self.masks / MASKS_PER_SHARD)  # each shard of masks once for each node
        return Requests(
            put=mine.put + renewals + statuses + journal,
            get=mine.get + renewals + masks,
            head=mine.head + renewals,
            list=mine.list,
        )

    @property
    def gpu_dollars(self) -> float:
        """At the node's price of a GPU hour."""
        return self.gpu_hours * self.node.price

    @property
    def month_dollars(self) -> float:
        """Of keeping the set for a month."""
        return self.size * MONTH_PRICE


def shard_requests(shards: int) -> Requests:
    """What all shards of a job are asked for: tar and marker written once; of the audit the marker twice and the tar;
    of the finish the marker again, then it alone of the first shard for the card; listed when there is none and at the
    end."""
    reads = 4 * shards + 1
    return Requests(put=2 * shards, get=reads, head=reads, list=1 + math.ceil(2 * shards / PAGE))
