"""The training loop, written once: the same in one process and on every worker of a cluster."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.data.shardset import ShardSet
from siamdiff.data.stream import Stream, StreamDataset, load_batches
from siamdiff.errors import UserError
from siamdiff.model.adapter import AdapterDiffusion
from siamdiff.model.base import Base, load_base
from siamdiff.model.build import build_model
from siamdiff.model.folder import save_model
from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.run import Lease, Status
from siamdiff.training import bases, checkpoint
from siamdiff.training.context import Context
from siamdiff.training.encoders import FrozenEncoders
from siamdiff.training.engine import DivergedError, Engine, check_precision, load_trained
from siamdiff.training.losses import LossWeights, weights_at
from siamdiff.training.previews import Previews
from siamdiff.training.record import Record
from siamdiff.training.speed import compile_blocks, use_channels_last

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
        UserError: the device has not the precision asked for, or the newest checkpoint was written by another number
            of workers than can read it.
        SiamdiffError: damaged checkpoint or shard, loss that is not finite, unreachable store, lease lost.
    """
    check_precision(config.train.precision, context.device)
    torch.manual_seed(config.train.seed)
    with bases.open_base(config, base_uri) as folder:
        base = load_base(str(folder))
        trainer = _Trainer(config, base, lease, context, make_engine)
        trainer.run()
        trainer.export(folder)


@dataclass(frozen=True)
class _Window:
    """Terms and keys of the steps since the last line of metrics."""

    terms: list[dict[str, torch.Tensor]]
    keys: list[dict[str, Any]]


class _Trainer:
    """One worker's state between steps: encoders, engine, stream; on rank 0 also the record."""

    def __init__(
        self, config: Config, base: Base, lease: Lease, context: Context, make_engine: MakeEngine
    ) -> None:
        assert config.data.uri
        self.config, self.context, self.base, self.lease = config, context, base, lease
        self.run_uri = config.run_uri()
        self.shard_set = ShardSet.open(config.data.uri)
        self.stream = Stream(tuple(self.shard_set.keys("train")), config.train.seed, config.train.batch_size)
        self.encoders = FrozenEncoders(base, context.device)
        share = config.train.batch_size // context.world_size
        self.micro_batch = config.train.micro_batch or share
        self.model = self._model()
        self.engine = make_engine(self.model, config, share // self.micro_batch)
        self.step = self._resume()

    def _model(self) -> SiameseDiffusion | AdapterDiffusion:
        train = self.config.train
        torch.manual_seed(train.seed)  # the control network's first weights: the same on every worker
        model = build_model(self.config, self.base)
        if train.activation_checkpointing:
            model.unet.enable_gradient_checkpointing()
            if isinstance(model, SiameseDiffusion):  # an adapter has no such thing, and is small
                model.controlnet.enable_gradient_checkpointing()
        model.alphas_cumprod = model.alphas_cumprod.to(self.context.device)
        model.to(self.context.device).train()
        if train.channels_last:
            use_channels_last(model.unet, model.control)
        if train.compile:
            compile_blocks(model.unet, model.control)
        return model

    def _resume(self) -> int:
        """The step to go on from; every worker takes the one rank 0 found."""
        found = checkpoint.complete_steps(self.run_uri)[-1:] if self.context.rank == 0 else []
        steps = self.context.gather(found)[0]
        if not steps:
            return 0
        with tempfile.TemporaryDirectory(prefix="siamdiff-resume-") as folder:
            marker = checkpoint.fetch(self.run_uri, steps[0], Path(folder))
            if self.engine.ties_world_size and marker["world_size"] != self.context.world_size:
                raise UserError(
                    f"the checkpoint of step {steps[0]} was written by {marker['world_size']} workers, "
                    f"train.workers is {self.context.world_size}; go on with --train.workers {marker['world_size']}"
                )
            self.engine.load(Path(folder), marker["world_size"])
        if self.context.rank == 0:
            log.info("resuming after step %d", steps[0])
        return steps[0]

    def run(self) -> None:
        """Steps until the last one, with lines, previews and checkpoints when they are due."""
        train, context = self.config.train, self.context
        status = Status(self.run_uri, phase="training", done=self.step, total=train.steps)
        record = Record(self.run_uri, self.step, train.steps, train.batch_size) if context.rank == 0 else None
        previews = Previews(self.config, self.shard_set, self.encoders, context)
        batches = self._batches()
        window = _Window([], [])
        while self.step < train.steps:
            try:
                self._train_step(batches, window)
            except DivergedError:
                self._line(window, record)
                if record:
                    record.flush(self.step)  # the samples of the step that was not made
                raise
            self.step += 1
            is_last = self.step == train.steps
            saves = is_last or (train.checkpoint_steps and self.step % train.checkpoint_steps == 0)
            if saves or self.step % train.log_steps == 0:
                self._line(window, record)
                window = _Window([], [])
                if record:
                    status.write(done=self.step)
            if is_last or self.step % train.preview_steps == 0:
                previews.draw(self.model, self.step)
            if saves:
                self._checkpoint(record)
        if record:
            record.close()

    def _batches(self) -> Any:
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

    def _train_step(self, batches: Any, window: _Window) -> None:
        """One optimizer step over this worker's share; adds its loss terms and what it consumed."""
        train, weights = self.config.train, self._weights()
        consumed: dict[str, Any] = {"step": self.step, "positions": [], "keys": []}
        window.keys.append(consumed)
        for _ in range(train.batch_size // self.context.world_size // self.micro_batch):
            batch = next(batches)
            loss, terms = self.engine.forward(self.encoders.inputs(batch), weights)
            window.terms.append(terms)
            consumed["positions"] += batch.positions
            consumed["keys"] += batch.keys
            self.engine.backward(loss)
            self.engine.step()

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

    def _line(self, window: _Window, record: Record | None) -> None:
        """Means over steps and workers, and the keys of all workers step by step."""
        names = list(window.terms[0])
        means = torch.stack([torch.stack([terms[name] for name in names]) for terms in window.terms]).mean(
            dim=0
        )
        gathered = self.context.gather((means.tolist(), window.keys))
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
        self.context.report(record.line(self.step, terms, keys))

    def _checkpoint(self, record: Record | None) -> None:
        """Every worker's part, then the record, then the marker that makes it count."""
        with tempfile.TemporaryDirectory(prefix="siamdiff-checkpoint-") as folder:
            self.engine.snapshot(Path(folder))()
            files = checkpoint.upload_part(self.run_uri, self.step, Path(folder))
        parts = self.context.gather(files)
        if record:
            record.flush(self.step)
            self.lease.check()
            merged = {name: info for part in parts for name, info in part.items()}
            checkpoint.complete(
                self.run_uri, self.step, merged, self.context.world_size, self.config.train.checkpoints_kept
            )
        self.context.gather(None)

    def export(self, base_folder: Path) -> None:
        """`model/` in diffusers' layout, written by rank 0."""
        weights = self.engine.full_weights()
        self.engine.release()
        if self.context.rank == 0:
            # a fresh base on the CPU takes the trained weights: the engine's own modules may be partitioned
            base = load_base(str(base_folder))
            model = build_model(self.config, base)
            load_trained(model, weights)
            self.lease.check()
            save_model(storage.join(self.run_uri, "model"), base_folder, model, self.config, self.shard_set)
        self.context.gather(None)
