"""One training step against the same losses written straightforwardly (benchmarks/naive.py): time, memory, arithmetic.

    python benchmarks/training_step.py              # half of Stable Diffusion 1.5's widths, minutes on 2 cores
    python benchmarks/training_step.py --divisor 1 --resolution 384 --memory 120     # the true size, on a GPU

Both run the same networks with the same optimizer on the same batch, each in a process of its own, their steps taking
turns; their first losses must agree. Ours is what the loop does (FrozenEncoders, SiameseDiffusion, TorchEngine) with
latents and text states known, as they are from the second epoch on, or from a cache; the other one has VAE and text
encoder in its step. Both are measured before and after N / 3, at a batch of one and at the largest batch whose
straightforward step is counted to fit --memory.

"time" is the quotient of the medians, "flops" that of the counted operations of all that runs (VAE and text encoder
included), "quality" the first by the second: the aim is 0.95 or less. "peak" is of the whole process while it steps.
"""

import math
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.common import Spread, parser, show
from benchmarks.naive import NaiveStep
from benchmarks.reduced import make_base, make_batch, make_model, tokens_of
from siamdiff.config import Config
from siamdiff.data.stream import Batch
from siamdiff.estimate.meter import Meter
from siamdiff.model.base import Base
from siamdiff.model.siamese import SiameseDiffusion, StepInputs
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.engine import TorchEngine
from siamdiff.training.losses import weights_at

N = 3000
PHASES = {"before N/3": N // 4, "after N/3": N // 2}  # k
VARIANTS = ("siamdiff", "straightforward")
LEARNING_RATE = 1e-5
Clock = Literal["wall", "processor"]
AIM = 0.95


@dataclass(frozen=True)
class Setting:
    """What both variants are built from."""

    divisor: int  # of Stable Diffusion 1.5's widths
    resolution: int
    batch: int
    threads: int
    device: str


class Siamdiff:
    """The step as the loop makes it."""

    def __init__(self, setting: Setting) -> None:
        base, self.device = make_base(setting.divisor), torch.device(setting.device)
        model = make_model(base).to(self.device)
        config = Config.model_validate(
            {"train": {"batch_size": setting.batch, "engine": "torch", "learning_rate": LEARNING_RATE}}
        )
        self.engine = TorchEngine.of(model, config, 1)
        self.encoders = FrozenEncoders(base, self.device)
        self.batch = make_batch(setting.batch, setting.resolution)

    def step(self, k: int) -> float:
        """Makes optimizer step `k`; returns the loss before it."""
        loss, _ = self.engine.forward(self.encoders.inputs(self.batch), weights_at(k, N))
        self.engine.backward(loss)
        self.engine.step()
        return loss.item()


class Straightforward:
    """The step with every pass made in full."""

    def __init__(self, setting: Setting) -> None:
        self.base, self.device = make_base(setting.divisor), torch.device(setting.device)
        self.base.vae.to(self.device)  # pyright: ignore[reportArgumentType]
        self.base.text_encoder.to(self.device)  # pyright: ignore[reportArgumentType]
        model = make_model(self.base).to(self.device)
        self.naive = NaiveStep(self.base, model, N)
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=1e-2, fused=True)
        self.batch = make_batch(setting.batch, setting.resolution)

    def step(self, k: int) -> float:
        """Makes optimizer step `k`; returns the loss before it."""
        tokens = tokens_of(self.base, self.batch.prompts).to(self.device)
        loss = self.naive.loss(on(self.batch, self.device), tokens, k)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def on(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    tensors = {name: value.to(device) for name, value in vars(batch).items() if torch.is_tensor(value)}
    return Batch(batch.positions, batch.keys, batch.prompts, **tensors)


def count(variant: str, setting: Setting, k: int) -> tuple[int, int]:
    """Operations of one step, counted on the meta device, and the bytes that it takes at most beside its inputs.

    Bytes: weights, gradients and AdamW's two moments of the trained ones, and what the step makes.
    """
    base, model = _shapes(setting.divisor)
    networks: list[Any] = [model, base.vae, base.text_encoder]
    with torch.device("meta"):
        batch, meta = make_batch(setting.batch, setting.resolution), torch.device("meta")
        active = max(int((batch.t <= 200).sum()), 1)
        batch = on(batch, meta)
        tokens = torch.empty(setting.batch, 77, dtype=torch.long)
        weights = [p for network in networks for p in network.parameters()]
        inputs = _inputs(batch, base)
        with Meter([*weights, *_tensors(batch), *_tensors(inputs), tokens]) as meter:
            if variant == "siamdiff":
                taken = torch.empty(active, dtype=torch.long)
                loss, _ = model(inputs, weights_at(k, N), taken)
            else:
                loss = NaiveStep(base, model, N).loss(batch, tokens, k)
            loss.backward()
        model.zero_grad(set_to_none=True)
    trained = sum(p.numel() for p in weights if p.requires_grad)
    return meter.flops, meter.peak + 4 * sum(p.numel() for p in weights) + 8 * trained


@lru_cache(maxsize=1)
def _shapes(divisor: int) -> tuple[Base, SiameseDiffusion]:
    """The networks without storage."""
    with torch.device("meta"):
        base = make_base(divisor)
        return base, make_model(base)


def _tensors(holder: Batch | StepInputs) -> list[torch.Tensor]:
    return [value for value in vars(holder).values() if torch.is_tensor(value)]


def _inputs(batch: Batch, base: Base) -> StepInputs:
    text = torch.empty(len(batch.keys), 77, base.text_encoder.config.hidden_size)
    hint = torch.empty(len(batch.keys), 3, *batch.mask.shape[1:])
    return StepInputs(z_0=batch.noise, noise=batch.noise, t=batch.t, text=text, image=hint, mask=hint)


def largest_batch(setting: Setting, memory: float) -> int:
    """The largest batch whose straightforward step, after N / 3, is counted to fit `memory` bytes."""

    def peak(batch: int) -> int:
        sized = Setting(setting.divisor, setting.resolution, batch, setting.threads, setting.device)
        return count("straightforward", sized, PHASES["after N/3"])[1]

    one, five = peak(1), peak(5)
    return max(1, math.floor(1 + (memory - one) / ((five - one) / 4)))


def serve(pipe: Connection, variant: str, setting: Setting, clock: Clock) -> None:
    """A process that makes a step for every k that it is sent, until None; answers seconds, peak bytes, loss."""
    seconds = time.process_time if clock == "processor" else time.perf_counter
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    runner = (Siamdiff if variant == "siamdiff" else Straightforward)(setting)
    for k in iter(pipe.recv, None):
        _forget_peak(setting.device)
        started = seconds()
        loss = runner.step(k)
        if setting.device == "cuda":
            torch.cuda.synchronize()
        pipe.send((seconds() - started, _peak(setting.device), loss))


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the process's own high-water mark, see proc(5)


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


@contextmanager
def processes(setting: Setting, clock: Clock) -> Iterator[dict[str, Connection]]:
    """One process per variant, and the pipe to each."""
    context = multiprocessing.get_context("spawn")
    pipes, started = {}, []
    for variant in VARIANTS:
        pipes[variant], theirs = context.Pipe()
        started.append(context.Process(target=serve, args=(theirs, variant, setting, clock), daemon=True))
        started[-1].start()
    try:
        yield pipes
        for pipe in pipes.values():
            pipe.send(None)
        for process in started:
            process.join()
    finally:
        for process in started:
            process.terminate()


def measure(setting: Setting, repeats: int, clock: Clock) -> list[dict[str, Any]]:
    """One row per phase at the batch of `setting`."""
    rows = []
    with processes(setting, clock) as pipes:
        for phase, k in PHASES.items():
            answers: dict[str, list[tuple[float, int, float]]] = {variant: [] for variant in VARIANTS}
            for _ in range(2 + repeats):  # two to warm up
                for variant, pipe in pipes.items():
                    pipe.send(k)
                    answers[variant].append(pipe.recv())
            first = [answers[variant][0][2] for variant in VARIANTS]
            if not math.isclose(*first, rel_tol=1e-3):
                raise SystemExit(f"the two disagree on the loss {phase}: {first}")
            rows.append({"batch": setting.batch, "phase": phase} | _row(setting, k, answers))
    return rows


def _row(setting: Setting, k: int, answers: dict[str, list[tuple[float, int, float]]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for variant in VARIANTS:
        seconds, peaks, _ = zip(*answers[variant][2:], strict=True)
        row[variant] = {
            "seconds": Spread.of(list(seconds)),
            "peak_gb": max(peaks) / 1e9,
            "tflop": count(variant, setting, k)[0] / 1e12,
        }
    ours, theirs = (row[variant] for variant in VARIANTS)
    row["time"] = ours["seconds"].median / theirs["seconds"].median
    row["memory"] = ours["peak_gb"] / theirs["peak_gb"]
    row["flops"] = ours["tflop"] / theirs["tflop"]
    row["quality"] = row["time"] / row["flops"]
    return row


def main() -> None:
    """Measure and print."""
    cuda = torch.cuda.is_available()
    options = parser(__doc__)
    options.add_argument("--divisor", type=int, default=2, help="of Stable Diffusion 1.5's widths [2]")
    options.add_argument("--resolution", type=int, default=128, help="side of the images, pixels [128]")
    options.add_argument("--memory", type=float, default=6.5, help="that a step may take, GB [6.5]")
    options.add_argument("--batches", type=int, nargs="+", help="instead of 1 and the largest that fits")
    options.add_argument("--repeats", type=int, default=5, help="measured steps of each kind [5]")
    options.add_argument(
        "--clock",
        choices=("wall", "processor"),
        default="wall",
        help="processor: seconds of all threads, for a machine that is loaded; not on a GPU [wall]",
    )
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = options.parse_args()
    smallest = Setting(chosen.divisor, chosen.resolution, 1, chosen.threads, "cuda" if cuda else "cpu")
    batches = chosen.batches or sorted({1, largest_batch(smallest, chosen.memory * 1e9)})
    measured = []
    for batch in batches:
        setting = Setting(chosen.divisor, chosen.resolution, batch, chosen.threads, smallest.device)
        measured += measure(setting, chosen.repeats, chosen.clock)
    lines = [
        f"1/{chosen.divisor} of Stable Diffusion 1.5's widths, {chosen.resolution} x {chosen.resolution} pixels, "
        f"{chosen.threads} threads, {chosen.clock} time, median (quartiles) of {chosen.repeats} steps",
        f"{'batch':>5} {'':10} {'seconds':>24} {'straightforward':>24} {'time':>6} {'flops':>6} {'quality':>8} "
        f"{'peak GB':>8} {'straightf.':>10}",
    ]
    for row in measured:
        ours, theirs = (row[variant] for variant in VARIANTS)
        lines.append(
            f"{row['batch']:>5} {row['phase']:10} {ours['seconds']!s:>24} {theirs['seconds']!s:>24} "
            f"{row['time']:6.3f} {row['flops']:6.3f} {row['quality']:8.3f} "
            f"{ours['peak_gb']:8.2f} {theirs['peak_gb']:10.2f}"
        )
    show({"aim": AIM, "rows": measured}, lines, chosen.json)


if __name__ == "__main__":
    main()
