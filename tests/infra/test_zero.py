"""Gradients under DeepSpeed ZeRO 0-3 on two workers equal those of the deep-copy implementation in one process."""

import itertools
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from siamdiff.training.losses import weights_at
from tests.training.reference import naive_loss, tiny_inputs, tiny_model

N, K = 30, 20  # a step after N / 3: every loss term is there
TIMESTEPS = [[150, 700], [300, 999]]  # of rank 0, of rank 1: only rank 0 has a sample for Online-Augmentation
CASES = list(itertools.product([0, 1, 2, 3], [False, True]))  # ZeRO stage, activation checkpointing


def halves(rank: int) -> Any:
    """This rank's half of the batch of four."""
    inputs = tiny_inputs(TIMESTEPS[0] + TIMESTEPS[1], dtype=torch.float32)
    return type(inputs)(**{name: value[2 * rank : 2 * rank + 2] for name, value in vars(inputs).items()})


def worker(rank: int, port: int, folder: str) -> None:
    """Runs every case and, on rank 0, saves its gradients."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    from deepspeed.utils import safe_get_full_grad

    from infra.zero import DeepSpeedEngine

    for stage, checkpointing in CASES:
        model = tiny_model(dtype=torch.float32)
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
            model.controlnet.enable_gradient_checkpointing()
        engine = DeepSpeedEngine(
            model, zero_stage=stage, learning_rate=1e-3, weight_decay=0.0, micro_batch=2, accumulation=1
        )
        loss, _ = engine.forward(halves(rank), weights_at(K, N))
        engine.backward(loss)
        gradients = {name: safe_get_full_grad(p) for name, p in model.named_parameters() if p.requires_grad}
        engine.step()
        if rank == 0:
            torch.save(gradients, Path(folder) / f"{stage}-{checkpointing}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def zero_gradients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gradients")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, args=(port, str(folder)), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return folder


@pytest.mark.cluster
@pytest.mark.parametrize(("stage", "checkpointing"), CASES)
def test_gradients_equal_the_deep_copys_under_zero(
    zero_gradients: Path, stage: int, checkpointing: bool
) -> None:
    model = tiny_model(dtype=torch.float32)
    naive_loss(model, tiny_inputs(TIMESTEPS[0] + TIMESTEPS[1], dtype=torch.float32), K, N).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    found = torch.load(zero_gradients / f"{stage}-{checkpointing}.pt")
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
