"""The base and its training."""

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from siamdiff.sections.common import Precision, Section


class Model(Section):
    """The diffusion model that training starts from."""

    base: str = Field(
        default="tiny",
        min_length=1,
        description="Stable Diffusion 1.x: hub id, folder in diffusers' layout, single file; or 'tiny' (made from the "
        "data)",
    )
    parts: str | None = Field(
        default=None, description="folder in diffusers' layout that supplies whole parts which the base lacks"
    )
    control: Literal["dhi", "plain", "t2i-adapter"] = Field(
        default="dhi",
        description="dhi: ControlNet with Dense Hint Input; plain: with its own hint encoder; t2i-adapter: a baseline",
    )
    vae_steps: int = Field(default=450, ge=1, description="tiny base: training steps of its VAE")
    seed: int = Field(default=0, ge=0, description="tiny base: seed of its weights and its training")
    unet_steps: int = Field(
        default=500, ge=1, description="tiny base: training steps of its UNet, without control"
    )
    hint_channels: tuple[int, ...] | None = Field(
        default=None, description="widths of the Dense Hint Input [the base's; the paper's 16,32,64,128,256]"
    )

    @model_validator(mode="after")
    def _widths_of_something(self) -> "Model":
        if self.hint_channels and self.control != "dhi":
            raise ValueError(
                f"model.hint_channels are widths of the Dense Hint Input, which model.control {self.control} has not: "
                "leave them out, or give --model.control dhi"
            )
        return self


class Train(Section):
    """Siamese-Diffusion training (paper, Sec. 4)."""

    run: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run under ROOT/runs; the same name resumes [derived from the settings]",
    )
    steps: int = Field(default=3000, ge=1, description="optimizer steps, N")
    batch_size: int = Field(default=48, ge=1, description="total batch B over all workers")
    micro_batch: int | None = Field(
        default=None, ge=1, description="samples per worker and pass; smaller accumulates [batch / workers]"
    )
    workers: int = Field(default=1, ge=1, description="training processes")
    min_workers: int | None = Field(
        default=None, ge=1, description="elastic: go on with as few as these where nodes are lost [workers]"
    )
    zero_stage: int = Field(default=2, ge=0, le=3, description="DeepSpeed ZeRO stage")
    engine: Literal["deepspeed", "torch"] = Field(
        default="deepspeed", description="deepspeed: Ray Train with ZeRO; torch: one process without Ray"
    )
    seed: int = Field(
        default=42, ge=0, description="seed of the stream: order, timesteps, noise, dropped prompts"
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="AdamW; what the schedule starts from")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="of the learning rate after warm-up; the last two end at 0"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the learning rate rises from 0")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW")
    clip_norm: float | None = Field(
        default=None, gt=0, description="scale gradients of a larger norm down to it [off, as in the paper]"
    )
    gradient_limit: float = Field(
        default=1e4, gt=0, description="norm of the gradient, before clipping, above which the run stops"
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of an average of the weights, which becomes the model, such as 0.9999 [off]",
    )
    offload_optimizer: bool = Field(
        default=False, description="keep the optimizer's state in main memory (ZeRO 1 to 3)"
    )
    trained_unet: Literal["decoder", "none", "all"] = Field(
        default="decoder", description="which parts of the UNet learn; decoder is the paper's"
    )
    image_branch: bool = Field(
        default=True, description="Image-Diffusion and its loss L_i (Eq. 8); the switches below need it"
    )
    image_weight: Literal["linear"] | float = Field(
        default="linear", description="w_i (Eq. 5): linear is the paper's k / N; or a constant"
    )
    consistency_weight: float = Field(
        default=1.0, ge=0, description="w_c of the noise consistency loss (Eq. 9); 0 leaves it out"
    )
    online_augmentation: bool = Field(default=True, description="Online-Augmentation (Eq. 11-13)")
    augment_after: float = Field(
        default=1 / 3, ge=0, le=1, description="K_tau: share of the steps before Online-Augmentation begins"
    )
    augment_timesteps: int = Field(
        default=200, ge=0, le=999, description="T_tau: Online-Augmentation takes timesteps up to it"
    )
    prompt_drop: float = Field(
        default=0.05, ge=0, le=1, description="share of prompts replaced by the empty prompt"
    )
    precision: Precision = Field(
        default="fp32", description="of the networks' arithmetic; weights are updated in fp32 always"
    )
    activation_checkpointing: Literal["auto"] | bool = Field(
        default="auto",
        description="recompute activations in the backward pass: less memory, more time; auto: if the GPU needs it",
    )
    channels_last: bool = Field(
        default=False, description="memory format of the networks' activations; changes last bits"
    )
    compile: bool = Field(
        default=False, description="torch.compile the networks, block by block; changes last bits"
    )
    loader_workers: int = Field(default=2, ge=0, description="reading processes per training process")
    cache: bool = Field(
        default=False, description="VAE moments and text states from a cache beside the data, made once"
    )
    log_steps: int = Field(default=10, ge=1, description="steps between two lines of metrics")
    checkpoint_minutes: float = Field(
        default=5.0, gt=0, description="time between two checkpoints: what is lost without warning at most"
    )
    checkpoint_steps: int | None = Field(
        default=None, ge=1, description="steps between two checkpoints, besides the minutes [none]"
    )
    checkpoints_kept: int = Field(
        default=2, ge=1, description="newest checkpoints kept, besides the best by validation loss"
    )
    validation_steps: int = Field(default=250, ge=1, description="steps between two validation losses")
    validation_samples: int = Field(
        default=64, ge=0, description="samples of the val split that the validation loss takes; 0: none"
    )
    preview_steps: int = Field(default=250, ge=1, description="steps between two previews")
    preview_samples: int = Field(
        default=32,
        ge=0,
        description="samples for the previews' distance to the real set, at least 2; 0: none",
    )
    grace_seconds: float = Field(default=60.0, gt=0, description="for the checkpoint after SIGTERM or Ctrl-C")
    stall_minutes: float = Field(
        default=20.0, gt=0, description="without a step of a worker until it is taken for stuck and restarted"
    )
    budget_hours: float | None = Field(
        default=None, gt=0, description="hours of training, over all attempts, after which the run stops"
    )
    budget_cost: float | None = Field(
        default=None, gt=0, description="dollars, at cluster.price for a GPU hour, after which the run stops"
    )
    max_restarts: int = Field(
        default=3, ge=0, description="restarts of the workers without a new checkpoint in between"
    )

    @field_validator("image_weight", mode="before")
    @classmethod
    def _linear_or_constant(cls, given: Any) -> Any:
        if given == "linear":
            return given
        try:
            constant = float(given)
        except (TypeError, ValueError):
            constant = math.nan
        if not 0 <= constant <= 1:
            raise ValueError("give linear, or a number from 0 to 1")
        return constant

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "Train":
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"train.warmup_steps is {self.warmup_steps} and train.steps {self.steps}: the learning rate "
                "would never be reached; give fewer than train.steps"
            )
        return self

    @model_validator(mode="after")
    def _image_branch_is_there(self) -> "Train":
        if not self.image_branch and (self.online_augmentation or self.consistency_weight):
            raise ValueError(
                "train.image_branch is false: train.online_augmentation must be false too, and "
                "train.consistency_weight 0, since both use its prediction"
            )
        return self
