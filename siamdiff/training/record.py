"""What a run leaves for people: metrics.jsonl, TensorBoard events, the log of sample keys, the progress line."""

import json
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from siamdiff import storage
from siamdiff.errors import SiamdiffError
from siamdiff.run import readable_seconds

log = logging.getLogger(__name__)


class Record:
    """Written by rank 0 alone. Objects are rewritten whole; on resume they are cut back to the checkpoint's step."""

    def __init__(self, run_uri: str, first_step: int, num_steps: int, batch_size: int) -> None:
        self.run_uri = run_uri
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.rows = [
            row for row in _read_rows(storage.join(run_uri, "metrics.jsonl")) if row["step"] <= first_step
        ]
        self.keys: list[dict[str, Any]] = []
        self.first_key_step = first_step
        self._cut_keys(first_step)
        self._started = time.monotonic()
        self._first_step = first_step
        self._marked = (time.monotonic(), first_step)
        self._folder = tempfile.TemporaryDirectory(prefix="siamdiff-events-")
        self._events = Path(self._folder.name)
        self._writer = SummaryWriter(str(self._events), purge_step=first_step + 1)

    def _cut_keys(self, first_step: int) -> None:
        uri = storage.join(self.run_uri, "logs", "keys")
        for name in storage.list_files(uri):
            if int(Path(name).stem.partition("-")[2]) > first_step:
                storage.delete(storage.join(uri, name))

    def line(self, step: int, terms: dict[str, float], keys: list[dict[str, Any]]) -> dict[str, float]:
        """Adds the means since the last line, after `step` steps; logs the progress line.

        Args:
            step: optimizer steps finished.
            terms: loss terms by name.
            keys: {"step", "positions", "keys"} of each step since the last line.

        Raises:
            SiamdiffError: a loss is not finite.
        """
        self.keys += keys
        if wrong := [name for name, value in terms.items() if not math.isfinite(value)]:
            self._write_keys(step)
            raise SiamdiffError(
                f"{wrong[0]} is {terms[wrong[0]]} after step {step}; the last checkpoint is good: "
                "lower train.learning_rate, or look at the samples that logs/keys names last"
            )
        seconds, steps = time.monotonic() - self._marked[0], step - self._marked[1]
        self._marked = (time.monotonic(), step)
        row = {"step": step, **terms, "samples_per_second": steps * self.batch_size / seconds}
        self.rows.append(row)
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name if name == "samples_per_second" else f"loss/{name}", value, step)
        left = (self.num_steps - step) * (time.monotonic() - self._started) / (step - self._first_step)
        log.info(
            "step %d/%d  %s  %.1f samples/s  %s left",
            step,
            self.num_steps,
            "  ".join(f"{name} {value:.4f}" for name, value in terms.items()),
            row["samples_per_second"],
            readable_seconds(left),
        )
        return row

    def flush(self, step: int) -> None:
        """Writes everything up to `step` to the store, before the checkpoint of that step counts."""
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        storage.write_bytes(storage.join(self.run_uri, "metrics.jsonl"), lines.encode())
        self._write_keys(step)
        self._writer.flush()
        storage.upload_folder(storage.join(self.run_uri, "tensorboard"), self._events)

    def _write_keys(self, step: int) -> None:
        if self.keys:
            name = f"{self.first_key_step:08d}-{step:08d}.jsonl"
            lines = "".join(json.dumps(row) + "\n" for row in self.keys)
            storage.write_bytes(storage.join(self.run_uri, "logs", "keys", name), lines.encode())
            self.keys, self.first_key_step = [], step

    def close(self) -> None:
        """Ends the event file; everything that counts was flushed before."""
        self._writer.close()
        self._folder.cleanup()


def _read_rows(uri: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in storage.read_bytes(uri).splitlines()]
    except FileNotFoundError:
        return []
