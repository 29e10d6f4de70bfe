"""The training loop, written once: the same in one process and on every worker of a cluster."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Batch, Stream, StreamDataset, load_batches, split
from siamdiff.errors import StoppedError
from siamdiff.estimate.architecture import architecture
from siamdiff.estimate.report import settled
from siamdiff.model.adapter import AdapterDiffusion
from siamdiff.model.base import Base, load_base
from siamdiff.model.build import build_model
from siamdiff.model.folder import save_model
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.run import Lease, Status
from siamdiff.training import bases, checkpoint
from siamdiff.training.budget import cost, over_budget
from siamdiff.training.caching import open_cache
from siamdiff.training.context import Context
from siamdiff.training.diagnosis import Pass, told
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.engine import DTYPES, DivergedError, Engine, load_trained
from siamdiff.training.losses import LossWeights, weights_at
from siamdiff.training.optimizer import learning_rate_at
from siamdiff.training.precision import check_precision
from siamdiff.training.previews import Previews
from siamdiff.training.record import VALIDATION, Record
from siamdiff.training.speed import compile_blocks, forbid_tf32, hold_frozen, use_channels_last
from siamdiff.training.throughput import Throughput
from siamdiff.training.validation import Validation
from siamdiff.training.wish import Wish

log = logging.getLogger(__name__)

MakeEngine = Callable[[torch.nn.Module, Config, int], Engine]  # model, configuration, accumulation


def train(config: Config, base_uri: str, lease: Lease, context: Context, make_engine: MakeEngine) -> None:
    """Trains from the last complete checkpoint, or from the base, to the last step; then writes `model/`.

    Called on every worker with the same arguments.

    Args:
        config: resolved configuration.
        base_uri: of the base, see siamdiff.training.bases.base_uri.
        lease: the right to write in the run's folder.
        context: this worker's place.
        make_engine: wraps the model with an optimizer.

    Raises:
        UserError: the device has not the precision asked for.
        StoppedError: it was asked to stop; a checkpoint was written.
        SiamdiffError: damaged checkpoint or shard, a gradient that is not finite or too large, unreachable store,
            lease lost.
    """
    check_precision(config.train.precision, context.device)
    forbid_tf32()
    torch.manual_seed(config.train.seed)
    with bases.open_base(config, base_uri) as folder:
        base = load_base(str(folder))
        if context.rank == 0:
            bases.note_base(config, base_uri, folder)
        trainer = _Trainer(config, base, lease, context, make_engine)
        trainer.run()
        trainer.export(folder)


@dataclass
class _Window:
    """What happened since the last line of metrics."""

    terms: list[dict[str, torch.Tensor]] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    data_seconds: float = 0.0  # this worker waited for samples
    checkpoint_seconds: float = 0.0  # this worker did nothing but copy a state, or wait for the one before


class _Trainer:
    """One worker's state between steps: encoders, engine, stream, writer; on rank 0 also the record."""

    def __init__(
        self, config: Config, base: Base, lease: Lease, context: Context, make_engine: MakeEngine
    ) -> None:
        assert config.data.uri
        self.config, self.context, self.base, self.lease = config, context, base, lease
        self.run_uri = config.run_uri()
        self.shard_set = ShardSet.open(config.data.uri)
        self.stream = Stream(tuple(self.shard_set.keys("train")), config.train.seed, config.train.batch_size)
        cache = open_cache(base, self.shard_set) if config.train.cache else None
        self.encoders = FrozenEncoders(base, context.device, cache)
        self.micro_batch, self.accumulation = split(
            config.train.batch_size, context.world_size, config.train.micro_batch
        )
        self.model = self._model()
        self.engine = make_engine(self.model, config, self.accumulation)
        self.writer = checkpoint.Writer(self.run_uri, context, lease, config.train.checkpoints_kept)
        self.validation = Validation(config, self.shard_set, self.encoders, context)
        self.previews = Previews(config, self.shard_set, self.encoders, context)
        self.throughput = Throughput(config, base, context)
        self.spent = 0.0, 0.0  # seconds of earlier attempts, and the same summed over their workers
        self.exceeded = ""  # which budget is used up
        self.validated: float | None = None  # the validation loss of this very step
        self.best = math.inf  # the lowest so far
        self.step = self._resume()
        self.started = self.saved = time.monotonic()

    def _model(self) -> SiameseDiffusion | AdapterDiffusion:
        train = self.config.train
        torch.manual_seed(train.seed)  # the control network's first weights: the same on every worker
        model = build_model(self.config, self.base)
        if self._checkpointing():
            model.unet.enable_gradient_checkpointing()
            if isinstance(model, SiameseDiffusion):  # an adapter has no such thing, and is small
                model.controlnet.enable_gradient_checkpointing()
        model.alphas_cumprod = model.alphas_cumprod.to(self.context.device)
        model.to(self.context.device).train()
        if train.channels_last:
            use_channels_last(model.unet, model.control)
        if train.engine == "torch" and train.precision != "fp32":
            hold_frozen(model.unet, DTYPES[train.precision])
        if train.compile:
            compile_blocks(model.unet, model.control)
        return model

    def _checkpointing(self) -> bool:
        """Whether activations are recomputed: where that is left open, if the smallest GPU needs it."""
        chosen, device = self.config.train.activation_checkpointing, self.context.device
        if chosen != "auto":
            return chosen
        if device.type != "cuda":
            return False
        share = min(1.0, self.config.cluster.gpus or 1.0)  # of a GPU that several workers have
        memory = share * min(self.context.gather(torch.cuda.get_device_properties(device).total_memory))
        model = self.config.model.model_copy(update={"base": str(self.base.folder)})
        config = self.config.model_copy(update={"model": model})
        return settled(config, architecture(config), memory).train.activation_checkpointing is True

    def _resume(self) -> int:
        """The step to go on from; every worker takes the checkpoint that rank 0 found."""
        found = checkpoint.complete_checkpoints(self.run_uri)[-1:] if self.context.rank == 0 else []
        newest = self.context.gather(found)[0]
        if self.context.rank == 0:
            checkpoint.remove_incomplete(self.run_uri)
        if not newest:
            return 0
        with checkpoint.fetched(newest[0], self.context) as (folder, marker):
            self.engine.load(folder, marker["world_size"])
        self.spent = marker.get("seconds", 0.0), marker.get("worker_seconds", 0.0)
        self.best = marker.get("best", math.inf)
        if self.context.rank == 0:
            log.info("resuming after step %d", newest[0].step)
        return newest[0].step

    def run(self) -> None:
        """Steps until the last one, or until a stop is wanted.

        Raises:
            StoppedError: somebody wanted it; a checkpoint of the last step was written before.
        """
        train = self.config.train
        logs = storage.join(self.run_uri, "logs")
        status = Status(self.run_uri, phase="training", done=self.step, total=train.steps, log=logs)
        record = Record(self.run_uri, self.step, train.steps) if self.context.rank == 0 else None
        batches, window = self._batches(), _Window()
        try:
            while self.step < train.steps:
                self._train_step(batches, window)
                self.step += 1
                self.validated = None
                self.writer.check()
                wish = self.context.agree(self._wish(), self.step)
                is_last = self.step == train.steps
                looks = {} if wish == Wish.STOP else self._looks(is_last, window)  # a grace is short
                is_best = looks.get(VALIDATION, math.inf) < self.best
                saves = is_last or is_best or wish > Wish.NOTHING or _due(self.step, train.checkpoint_steps)
                if saves or looks or self.step % train.log_steps == 0:
                    self._line(window, looks, record)
                    window = _Window()
                    if record:
                        status.write(done=self.step, cost=self._cost())
                if saves:
                    self._checkpoint(record, window)
                if wish == Wish.STOP:
                    self._stop()
            self.writer.wait()
            self.context.gather(None)  # rank 0 has seen every part
        finally:
            self.writer.close(train.grace_seconds)
            if record:
                record.close()

    def _wish(self) -> Wish:
        """What this worker wants between two steps."""
        self.exceeded = over_budget(self.config, *self._spent())
        if self.exceeded:
            return Wish.STOP
        minutes = (time.monotonic() - self.saved) / 60
        return Wish.CHECKPOINT if minutes >= self.config.train.checkpoint_minutes else Wish.NOTHING

    def _spent(self) -> tuple[float, float]:
        """Seconds of training, of this and all earlier attempts as far as their work counts, and those of workers."""
        seconds = time.monotonic() - self.started
        return self.spent[0] + seconds, self.spent[1] + seconds * self.context.world_size

    def _cost(self) -> float | None:
        """Dollars so far, of all attempts; None without a price."""
        return cost(self.config, self._spent()[1]) if self.config.cluster.price is not None else None

    def _stop(self) -> None:
        self.writer.wait()
        why = next(filter(None, self.context.gather(self.context.why() or self.exceeded)), "a signal")
        raise StoppedError(
            f"stopped by {why} after step {self.step} of {self.config.train.steps}; a checkpoint was written, the "
            "same command goes on from there"
        )

    def _batches(self) -> Iterator[Batch]:
        train, vae = self.config.train, self.base.vae
        side = self.shard_set.manifest.resolution // 8
        dataset = StreamDataset(
            self.shard_set,
            self.stream,
            (vae.config["latent_channels"], side, side),
            self.base.scheduler.config["num_train_timesteps"],
            train.prompt_drop,
        )
        return load_batches(
            dataset,
            first_step=self.step,
            last_step=train.steps,
            rank=self.context.rank,
            world_size=self.context.world_size,
            micro_batch=self.micro_batch,
            loader_workers=train.loader_workers,
            pin_memory=self.context.device.type == "cuda",
        )

    def _train_step(self, batches: Iterator[Batch], window: _Window) -> None:
        """One optimizer step over this worker's share."""
        train, weights = self.config.train, self._weights()
        self.engine.set_learning_rate(learning_rate_at(self.step, train))
        passes: list[Pass] = []
        try:
            for _ in range(self.accumulation):
                asked = time.monotonic()
                batch = next(batches)
                window.data_seconds += time.monotonic() - asked
                inputs = self.encoders.inputs(batch)
                loss, terms = self.engine.forward(inputs, weights)
                passes.append(Pass(batch, inputs, terms))
                self.engine.backward(loss)
                self.engine.step()
        except DivergedError as error:
            self.writer.wait()
            raise told(error, self.run_uri, self.step, passes, weights, self.context, self.engine) from error
        window.terms += [of_pass.terms for of_pass in passes]
        counted = [of_pass.batch.counted() for of_pass in passes]
        window.keys.append(
            {
                "step": self.step,
                "positions": [position for positions, _ in counted for position in positions],
                "keys": [key for _, keys in counted for key in keys],
            }
        )

    def _weights(self) -> LossWeights:
        train = self.config.train
        return weights_at(
            self.step,
            train.steps,
            train.consistency_weight,
            image_branch=train.image_branch,
            w_i=train.image_weight,
            online_augmentation=train.online_augmentation,
            k_tau=train.augment_after,
            t_tau=train.augment_timesteps,
        )

    def _looks(self, is_last: bool, window: _Window) -> dict[str, float]:
        """Validation loss and previews where they are due; figures for the line of metrics. Their time is no step's."""
        train, figures, started = self.config.train, {}, time.monotonic()
        if is_last or _due(self.step, train.validation_steps):
            loss = self.validation.loss(self.model)
            if loss is not None:
                self.validated = figures[VALIDATION] = loss
        if is_last or _due(self.step, train.preview_steps):
            figures |= self.previews.draw(self.model, self.step)
        window.started += time.monotonic() - started
        return figures

    def _line(self, window: _Window, looks: dict[str, float], record: Record | None) -> None:
        """Means over steps and workers, and the keys of all workers step by step."""
        names = list(window.terms[0])
        means = torch.stack([torch.stack([terms[name] for name in names]) for terms in window.terms]).mean(
            dim=0
        )
        device = self.context.device
        memory = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
        waits = (window.data_seconds, window.checkpoint_seconds, memory)
        gathered = self.context.gather((means.tolist(), window.keys, waits))
        if record is None:
            return
        terms = {
            name: sum(worker[0][i] for worker in gathered) / len(gathered) for i, name in enumerate(names)
        }
        keys = []
        for of_step in zip(*(worker[1] for worker in gathered), strict=True):
            keys.append(
                {
                    "step": of_step[0]["step"],
                    "positions": [position for part in of_step for position in part["positions"]],
                    "keys": [key for part in of_step for key in part["keys"]],
                }
            )
        steps, seconds = len(window.keys), time.monotonic() - window.started
        figures = {
            "learning_rate": learning_rate_at(self.step - 1, self.config.train),
            "gradient_norm": self.engine.gradient_norm,
            "step_seconds": seconds / steps,
            "data_seconds": max(worker[2][0] for worker in gathered) / steps,
            "checkpoint_seconds": max(worker[2][1] for worker in gathered) / steps,
        } | self.throughput.row(self.step, steps * self.config.train.batch_size, seconds)
        if self.writer.counted:
            figures["checkpoint_time"] = self.writer.counted
        if memory:
            figures["gpu_memory_bytes"] = float(max(worker[2][2] for worker in gathered))
        if self.config.cluster.price and self.config.cluster.gpus:
            figures["cost"] = cost(self.config, self._spent()[1])
        figures |= looks
        self.context.report(record.line(self.step, terms, keys, figures))

    def _checkpoint(self, record: Record | None, window: _Window) -> None:
        """Takes the state of now; it is written while training goes on."""
        started = time.monotonic()
        seconds, worker_seconds = self._spent()
        about = {"seconds": seconds, "worker_seconds": worker_seconds, "validation": self.validated}
        if self.validated is not None:
            self.best = min(self.best, self.validated)
        if math.isfinite(self.best):
            about["best"] = self.best
        before = record.snapshot(self.step) if record else _nothing
        self.writer.begin(self.step, self.engine.snapshot, before, about)
        self.saved = time.monotonic()
        window.checkpoint_seconds += self.saved - started

    def export(self, base_folder: Path) -> None:
        """`model/` in diffusers' layout, written by rank 0."""
        weights = self.engine.full_weights(averaged=self.config.train.ema_decay is not None)
        self.engine.release()
        if self.context.rank == 0:
            # a fresh base on the CPU takes the trained weights: the engine's own modules may be partitioned
            base = load_base(str(base_folder))
            model = build_model(self.config, base)
            load_trained(model, weights)
            self.lease.check()
            save_model(storage.join(self.run_uri, "model"), base_folder, model, self.config, self.shard_set)
        self.context.gather(None)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _nothing() -> None:
    """Workers other than rank 0 keep no record."""
