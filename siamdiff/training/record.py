"""What a run leaves for people: metrics.jsonl, TensorBoard events, the log of sample keys, the progress line."""

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from siamdiff import storage
from siamdiff.errors import NotFiniteError
from siamdiff.run import readable_seconds

log = logging.getLogger(__name__)

VALIDATION = "validation_loss"  # the validation loss among a line's figures


class Record:
    """Written by rank 0 alone. Objects are rewritten whole; on resume they are cut back to the checkpoint's step."""

    def __init__(self, run_uri: str, first_step: int, num_steps: int) -> None:
        self.run_uri = run_uri
        self.num_steps = num_steps
        self.rows = [
            row for row in _read_rows(storage.join(run_uri, "metrics.jsonl")) if row["step"] <= first_step
        ]
        self.keys: list[dict[str, Any]] = []
        self.first_key_step = first_step
        self._cut_keys(first_step)
        self._started = time.monotonic()
        self._first_step = first_step
        self._folder = tempfile.TemporaryDirectory(prefix="siamdiff-events-")
        self._events = Path(self._folder.name)
        self._writer = SummaryWriter(str(self._events), purge_step=first_step + 1)

    def _cut_keys(self, first_step: int) -> None:
        uri = storage.join(self.run_uri, "logs", "keys")
        for name in storage.list_files(uri):
            if int(Path(name).stem.partition("-")[2]) > first_step:
                storage.delete(storage.join(uri, name))

    def line(
        self, step: int, terms: dict[str, float], keys: list[dict[str, Any]], figures: dict[str, float]
    ) -> dict[str, float]:
        """Adds one line after `step` steps, and logs the progress line.

        Args:
            step: optimizer steps finished.
            terms: loss terms by name, means since the last line.
            keys: {"step", "positions", "keys"} of each step since the last line.
            figures: what else there is to tell of these steps, by name.

        Raises:
            NotFiniteError: a loss is not finite.
        """
        self.keys += keys
        if wrong := [name for name, value in terms.items() if not math.isfinite(value)]:
            self.write_keys(step)
            raise NotFiniteError(
                f"{wrong[0]} is {terms[wrong[0]]} after step {step}; the last checkpoint is good: "
                "lower train.learning_rate, or look at the samples that logs/keys names last"
            )
        known = {name: value for name, value in figures.items() if math.isfinite(value)}  # JSON has no others
        row = {"step": step, **terms, **known}
        self.rows.append(row)
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"loss/{name}" if name in terms else name, value, step)
        left = (self.num_steps - step) * (time.monotonic() - self._started) / (step - self._first_step)
        speed = f"  {figures['samples_per_second']:.1f} samples/s" if "samples_per_second" in figures else ""
        losses = {name: value for name, value in row.items() if name in terms or name == VALIDATION}
        log.info(
            "step %d/%d  %s%s  %s left",
            step,
            self.num_steps,
            "  ".join(f"{name} {value:.4f}" for name, value in losses.items()),
            speed,
            readable_seconds(left),
        )
        return row

    def snapshot(self, step: int) -> Callable[[], None]:
        """Takes everything up to `step`; the function writes it, before the checkpoint of that step counts."""
        lines = "".join(json.dumps(row) + "\n" for row in self.rows).encode()
        write_keys = self._keys_snapshot(step)
        self._writer.flush()
        events = {
            path.relative_to(self._events).as_posix(): path.read_bytes()
            for path in self._events.rglob("*")
            if path.is_file()
        }

        def write() -> None:
            storage.write_bytes(storage.join(self.run_uri, "metrics.jsonl"), lines)
            write_keys()
            for name, content in events.items():
                storage.write_bytes(storage.join(self.run_uri, "tensorboard", name), content)

        return write

    def write_keys(self, step: int) -> None:
        """Writes the log of keys up to `step` right now."""
        self._keys_snapshot(step)()

    def _keys_snapshot(self, step: int) -> Callable[[], None]:
        keys, first = self.keys, self.first_key_step
        self.keys, self.first_key_step = [], step

        def write() -> None:
            if keys:
                name = f"{first:08d}-{step:08d}.jsonl"
                lines = "".join(json.dumps(row) + "\n" for row in keys)
                storage.write_bytes(storage.join(self.run_uri, "logs", "keys", name), lines.encode())

        return write

    def close(self) -> None:
        """Ends the event file; everything that counts was written before."""
        self._writer.close()
        self._folder.cleanup()


def _read_rows(uri: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in storage.read_bytes(uri).splitlines()]
    except FileNotFoundError:
        return []
