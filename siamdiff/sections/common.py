"""What the sections share, and the smallest of them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "val", "test"]
ImageFormat = Literal["png", "jpg"]
Precision = Literal["fp32", "bf16", "fp16"]


class Section(BaseModel):
    """A frozen section that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cluster(Section):
    """What each process takes. Changes nothing of what is computed, except `threads` in the last bits."""

    gpus: float = Field(default=0.0, ge=0, description="GPUs per training worker and per sampler actor")
    actor_cpus: float = Field(
        default=0.5, gt=0, description="cores that Ray books for a sampler or feature actor"
    )
    threads: int = Field(default=1, ge=1, description="threads of each worker and actor on CPU")
    device: str | None = Field(
        default=None, description="GPU that --dry-run reckons with: a name of docs/configurations.md's table"
    )
    price: float | None = Field(
        default=None, ge=0, description="of a GPU hour, in dollars, for --dry-run and budget_cost"
    )
    schedule_hours: float | None = Field(
        default=None,
        gt=0,
        description="hours between two starts by a schedule, for the alert that one is missed",
    )
