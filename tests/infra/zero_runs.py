"""What two workers do with the small model under ZeRO; tests/infra/test_zero.py looks at what they leave behind."""

import itertools
import math
from pathlib import Path
from typing import Any

import torch

from siamdiff.training.engine import DivergedError
from tests.training.small import BATCH, CUT, STEPS, Small, batch, train

GIVEN = {"ema_decay": 0.9, "clip_norm": 0.3}
STAGES = [*itertools.product([0, 1, 2, 3], [False]), (2, True), (3, True)]  # ZeRO stage, optimizer on the CPU
PASSES = 2


def small_engine(stage: int, offload: bool = False, **given: Any) -> Any:
    from infra.zero import DeepSpeedEngine

    return DeepSpeedEngine(
        Small(),
        zero_stage=stage,
        learning_rate=1e-2,
        weight_decay=0.01,
        micro_batch=BATCH // 2 // PASSES,
        accumulation=PASSES,
        offload_optimizer=offload,
        **GIVEN | given,
    )


def share_of(rank: int) -> slice:
    return slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)


def state(engine: Any) -> dict[str, Any]:
    """Weights and averages on rank 0; this worker's moments."""
    inner = getattr(engine.engine.optimizer, "optimizer", engine.engine.optimizer)
    moments = [{name: torch.clone(value) for name, value in of.items()} for of in inner.state.values()]
    return {
        "weights": engine.full_weights(),
        "averages": engine.full_weights(averaged=True),
        "moments": moments,
    }


def save_small_runs(rank: int, folder: str) -> None:
    """At every stage a whole run, one that is cut, and one that goes on from there; then a wrong gradient in each."""
    for stage, offload in STAGES:
        files = Path(folder, f"small-{stage}-{offload}")
        whole, cut, resumed = (small_engine(stage, offload) for _ in range(3))
        found: dict[str, Any] = {"rows": train(whole, PASSES, share_of(rank)), "whole": state(whole)}
        train(cut, PASSES, share_of(rank), range(CUT))
        write = cut.snapshot(files)
        train(cut, PASSES, share_of(rank), range(CUT, STEPS))
        write()
        torch.distributed.barrier()
        resumed.load(files, 2)
        found["after"] = train(resumed, PASSES, share_of(rank), range(CUT, STEPS))
        found["resumed"] = state(resumed)
        wrong = [(whole, math.nan, 1e4), (cut, math.inf, 1e4), (resumed, 3.0, 1e-3)]
        found["diverged"] = [diverged(rank, *of) for of in wrong]
        torch.save(found, files / f"found-{rank}.pt")


def diverged(rank: int, engine: Any, weight: float, limit: float) -> Any:
    """The message, the norm, the state before and after a step whose gradient is wrong on rank 1 alone, and whether
    nothing was drawn at random."""
    before, engine.gradient_limit = state(engine), limit
    drawn = torch.get_rng_state()
    message = ""
    try:
        for part in batch(STEPS)[share_of(rank)].chunk(PASSES):
            loss, _ = engine.forward(part, weight if rank else 3.0)
            engine.backward(loss)
            engine.step()
    except DivergedError as error:
        message = str(error)
    nothing_drawn = torch.equal(torch.get_rng_state(), drawn)
    return message, engine.gradient_norm, before, state(engine), nothing_drawn
