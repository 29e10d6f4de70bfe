"""What is left of a step that went wrong: the samples in it, and which of them did it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from siamdiff import storage
from siamdiff.data.stream import Batch
from siamdiff.errors import NotFiniteError
from siamdiff.model.siamese import StepInputs
from siamdiff.training.context import Context
from siamdiff.training.engine import DivergedError, Engine
from siamdiff.training.losses import LossWeights


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a step, and the means that it gave."""

    batch: Batch
    inputs: StepInputs
    terms: dict[str, torch.Tensor]


def told(
    error: DivergedError,
    run_uri: str,
    step: int,
    passes: list[Pass],
    weights: LossWeights,
    context: Context,
    engine: Engine,
) -> NotFiniteError:
    """Writes `logs/diverged-STEP.json` with every sample of the step, and says where it lies.

    Called by all workers. Where a forward pass needs no other worker, each sample is passed once more by itself, so
    that its own losses tell which one it was; else samples have the means of their pass.

    Args:
        error: of the engine.
        run_uri: the run's folder.
        step: optimizer steps finished before this one.
        passes: of this worker.
        weights: of the step.
        context: this worker's place.
        engine: that refused the step.

    Returns:
        The error to raise.
    """
    rows = [row for of_pass in passes for row in _rows(of_pass, weights, engine)]
    gathered = [row for of_worker in context.gather(rows) for row in of_worker]
    gathered.sort(key=lambda row: _rank(row["terms"]["L"]), reverse=True)
    wrong = [row["key"] for row in gathered if row["offends"]]
    uri = storage.join(run_uri, "logs", f"diverged-{step:08d}.json")
    if context.rank == 0:
        about = {
            "step": step,
            "gradient_norm": _number(engine.gradient_norm),
            "reason": str(error),
            "samples": gathered,
        }
        storage.write_json(uri, about)
    context.gather(None)  # no worker ends the group before it is written
    named = f" ({', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''})" if wrong else ""
    return NotFiniteError(
        f"step {step}: {error}; nothing was changed, the last checkpoint is good. Keys and timesteps of the "
        f"{len(gathered)} samples are in {uri}, losses of {len(wrong)} are not finite{named}: look at them, or lower "
        "train.learning_rate in a run of another name"
    )


def _rows(of_pass: Pass, weights: LossWeights, engine: Engine) -> list[dict[str, Any]]:
    batch, rows = of_pass.batch, []
    for i, key in enumerate(batch.keys):
        if batch.weight is not None and not batch.weight[i]:
            continue  # fills up the pass
        terms = of_pass.terms if engine.is_partitioned else _alone(of_pass.inputs, i, weights, engine)
        numbers = {name: float(value) for name, value in terms.items()}
        rows.append(
            {
                "key": key,
                "position": batch.positions[i],
                "t": int(batch.t[i]),
                "prompt": batch.prompts[i],
                "offends": not all(math.isfinite(value) for value in numbers.values()),
                "terms": {name: _number(value) for name, value in numbers.items()},
            }
        )
    return rows


def _alone(inputs: StepInputs, i: int, weights: LossWeights, engine: Engine) -> dict[str, torch.Tensor]:
    tensors = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    one = {name: tensor[i : i + 1] for name, tensor in tensors.items() if name != "weight"}
    with torch.no_grad():
        _, terms = engine.forward(StepInputs(**one), weights)
    return terms


def _number(value: float) -> float | str:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else str(value)


def _rank(loss: float | str) -> float:
    return math.inf if isinstance(loss, str) else loss
