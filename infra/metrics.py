"""Every Prometheus metric of the project, in one table. Ray's metrics agent exports them as ray_<name>."""

from dataclasses import dataclass

TRAIN_LOSS_TERMS = ("L_m", "L_i", "L_c", "L_m_prime", "L")


@dataclass(frozen=True)
class Metric:
    """Name, unit and meaning of one gauge."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


TRAIN_STEP = Metric("siamdiff_train_step", "optimizer steps finished")
TRAIN_LOSS = Metric("siamdiff_train_loss", "mean since the last line of metrics, by term", ("term",))
TRAIN_SPEED = Metric("siamdiff_train_samples_per_second", "samples per second over all workers")
GENERATE_DONE = Metric("siamdiff_generate_shards_done", "output shards finished")
GENERATE_PLANNED = Metric("siamdiff_generate_shards_planned", "output shards planned")


class TrainGauges:
    """The gauges of rank 0."""

    def __init__(self) -> None:
        self._step, self._loss, self._speed = (_gauge(m) for m in (TRAIN_STEP, TRAIN_LOSS, TRAIN_SPEED))

    def set(self, line: dict[str, float]) -> None:
        """Takes one line of metrics.jsonl; a term that the run has switched off is not in it."""
        self._step.set(line["step"])
        self._speed.set(line["samples_per_second"])
        for term in TRAIN_LOSS_TERMS:
            if term in line:
                self._loss.set(line[term], tags={"term": term})


class GenerateGauges:
    """The gauges of the job that generates."""

    def __init__(self) -> None:
        self._done, self._planned = (_gauge(m) for m in (GENERATE_DONE, GENERATE_PLANNED))

    def set(self, done: int, planned: int) -> None:
        """Takes the numbers of output shards."""
        self._done.set(done)
        self._planned.set(planned)


def _gauge(metric: Metric):
    from ray.util.metrics import Gauge

    return Gauge(metric.name, description=metric.meaning, tag_keys=metric.labels)
