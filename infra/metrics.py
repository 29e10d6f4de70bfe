"""Every Prometheus metric of the project, in one table. Ray's metrics agent exports them as ray_<name>."""

from dataclasses import dataclass

TRAIN_LOSS_TERMS = ("L_m", "L_i", "L_c", "L_m_prime", "L")


@dataclass(frozen=True)
class Metric:
    """Name, unit and meaning of one gauge."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


TRAIN_LOSS = Metric("siamdiff_train_loss", "mean since the last line of metrics, by term", ("term",))
# By the name that a figure has in metrics.jsonl. A line without it leaves the gauge at what it was.
TRAIN = {
    "step": Metric("siamdiff_train_step", "optimizer steps finished"),
    "samples_per_second": Metric(
        "siamdiff_train_samples_per_second", "samples per second over all workers, since the last line"
    ),
    "tflops": Metric(
        "siamdiff_train_teraflops", "10^12 model floating-point operations per second and worker"
    ),
    "share_of_peak": Metric(
        "siamdiff_train_share_of_peak_ratio", "of the device's peak in the run's precision; not where unknown"
    ),
    "step_seconds": Metric("siamdiff_train_step_seconds", "mean of a step since the last line"),
    "data_seconds": Metric(
        "siamdiff_train_data_seconds", "of a step's seconds, those spent waiting for samples; slowest worker"
    ),
    "checkpoint_seconds": Metric(
        "siamdiff_train_checkpoint_seconds",
        "of a step's seconds, those that checkpoints took; slowest worker",
    ),
    "learning_rate": Metric("siamdiff_train_learning_rate", "of the last step"),
    "gradient_norm": Metric(
        "siamdiff_train_gradient_norm", "of the last step's whole batch, before clipping"
    ),
    "validation_loss": Metric(
        "siamdiff_train_validation_loss", "L_m on the val split, fixed noise and timesteps"
    ),
    "preview_mmd_linear_efficientnet_lite0": Metric(
        "siamdiff_train_preview_mmd", "unbiased squared MMD between the previews' samples and real images"
    ),
    "preview_mmd_linear_efficientnet_lite0_floor": Metric(
        "siamdiff_train_preview_mmd_floor", "the same between real images and others"
    ),
    "checkpoint_time": Metric(
        "siamdiff_train_checkpoint_timestamp_seconds", "Unix time at which the last checkpoint counted"
    ),
    "restarts": Metric("siamdiff_train_restarts", "times that this job has started its workers again"),
}
# By the name that infra.fleet.Progress gives a figure.
GENERATE = {
    "done": Metric("siamdiff_generate_shards_done", "output shards finished"),
    "planned": Metric("siamdiff_generate_shards_planned", "output shards planned"),
    "images": Metric("siamdiff_generate_images", "images written by this job"),
    "images_per_second": Metric(
        "siamdiff_generate_images_per_second", "of all actors, since the job's first shard"
    ),
    "seconds_left": Metric("siamdiff_generate_seconds_left", "until the last shard, at this speed"),
    "actors": Metric("siamdiff_generate_actors", "sampler actors that finished a shard in this job"),
    "gpu_seconds": Metric("siamdiff_generate_gpu_seconds", "GPUs of all actors times their seconds"),
    "cost": Metric("siamdiff_generate_cost_dollars", "spent by this job, at cluster.price"),
    "cost_left": Metric("siamdiff_generate_cost_left_dollars", "until the last shard, at this speed"),
    "retried": Metric("siamdiff_generate_shards_retried", "finished at a later attempt than the first"),
    "redrawn": Metric(
        "siamdiff_generate_redrawn", "images of this job that took more than one draw to pass the gates"
    ),
    "rejected": Metric("siamdiff_generate_rejected", "images of this job that no draw made pass the gates"),
}


class TrainGauges:
    """The gauges of rank 0, and of the process that starts the workers; each sets what it knows."""

    def __init__(self) -> None:
        self._loss = _gauge(TRAIN_LOSS)
        self._gauges = {name: _gauge(metric) for name, metric in TRAIN.items()}

    def set(self, line: dict[str, float]) -> None:
        """Takes one line of metrics.jsonl, or a part of one; what is not in the table is passed over."""
        for name in line.keys() & self._gauges.keys():
            self._gauges[name].set(line[name])
        for term in TRAIN_LOSS_TERMS:
            if term in line:
                self._loss.set(line[term], tags={"term": term})


class GenerateGauges:
    """The gauges of the job that generates."""

    def __init__(self) -> None:
        self._gauges = {name: _gauge(metric) for name, metric in GENERATE.items()}

    def set(self, figures: dict[str, float]) -> None:
        """Takes what is known; the others stay what they were."""
        for name, value in figures.items():
            self._gauges[name].set(value)


def _gauge(metric: Metric):
    from ray.util.metrics import Gauge

    return Gauge(metric.name, description=metric.meaning, tag_keys=metric.labels)
