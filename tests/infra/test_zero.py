"""DeepSpeed ZeRO 0-3 on two workers: gradients equal those of the deep-copy implementation in one process, and bf16
trains as the plain engine does."""

import itertools
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from siamdiff.model.siamese import SiameseDiffusion
from siamdiff.training.engine import Engine, TorchEngine
from siamdiff.training.losses import weights_at
from tests.infra.zero_runs import CUT, GIVEN, STAGES, save_small_runs
from tests.training import small
from tests.training.reference import naive_loss, tiny_inputs, tiny_model

N, K = 30, 20  # a step after N / 3: every loss term is there
TIMESTEPS = [[150, 700], [300, 999]]  # of rank 0, of rank 1: only rank 0 has a sample for Online-Augmentation
Case = tuple[int, bool, str]  # ZeRO stage, activation checkpointing, which parts of the UNet learn
CASES: list[Case] = [
    (0, False, "decoder"),
    (1, True, "decoder"),
    (2, False, "decoder"),
    (2, True, "all"),
    (3, False, "decoder"),
]
MORE = sorted(set(itertools.product([0, 1, 2, 3], [False, True], ["decoder", "all", "none"])) - set(CASES))
STEPS, RESUMED = 5, 3


def halves(rank: int, seed: int = 0) -> Any:
    """This rank's half of the batch of four."""
    inputs = tiny_inputs(TIMESTEPS[0] + TIMESTEPS[1], seed, dtype=torch.float32)
    return type(inputs)(
        **{name: value[2 * rank : 2 * rank + 2] for name, value in vars(inputs).items() if value is not None}
    )


def case_file(folder: str | Path, case: Case) -> Path:
    return Path(folder, "-".join(map(str, case)) + ".pt")


def join(rank: int, port: int) -> None:
    """Makes this process one of two workers."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
    }
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)


def engine(model: SiameseDiffusion, stage: int, precision: Any = "fp32") -> Any:
    from infra.zero import DeepSpeedEngine

    return DeepSpeedEngine(
        model,
        zero_stage=stage,
        learning_rate=1e-3,
        weight_decay=0.0,
        micro_batch=2,
        accumulation=1,
        precision=precision,
    )


def worker(rank: int, port: int, folder: str, cases: list[Case], bf16_stages: list[int]) -> None:
    """All that is asked of one of two workers; bf16 last, since DeepSpeed keeps autocast on in a process."""
    join(rank, port)
    save_gradients(rank, folder, cases)
    save_small_runs(rank, folder)
    save_bf16_runs(rank, folder, bf16_stages)
    if 3 in bf16_stages:
        save_partitioned_bf16_run(rank, folder)
    torch.distributed.destroy_process_group()


def save_gradients(rank: int, folder: str, cases: list[Case]) -> None:
    """Runs every case and, on rank 0, saves its gradients."""
    from deepspeed.utils import safe_get_full_grad

    for case in cases:
        stage, checkpointing, trained_unet = case
        model = tiny_model(dtype=torch.float32, trained_unet=trained_unet)
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
            model.controlnet.enable_gradient_checkpointing()
        trained = engine(model, stage)
        loss, _ = trained.forward(halves(rank), weights_at(K, N))
        trained.backward(loss)
        found = {name: safe_get_full_grad(p) for name, p in model.named_parameters() if p.requires_grad}
        trained.step()
        if rank == 0:
            torch.save(found, case_file(folder, case))


def save_bf16_runs(rank: int, folder: str, stages: list[int]) -> None:
    """At each stage, saves the losses of a run, of one that is resumed, and the first one's weights."""
    for stage in stages:
        whole = engine(tiny_model(dtype=torch.float32), stage, "bf16")
        losses = steps(whole, lambda k: halves(rank, k))
        weights = whole.full_weights()
        cut = engine(tiny_model(dtype=torch.float32), stage, "bf16")
        steps(cut, lambda k: halves(rank, k), last=RESUMED)
        write = cut.snapshot(Path(folder, str(stage)))
        steps(cut, lambda k: halves(rank, k), first=RESUMED)  # goes on before the files are written
        write()
        torch.distributed.barrier()
        resumed = engine(tiny_model(dtype=torch.float32), stage, "bf16")
        resumed.load(Path(folder, str(stage)), 2)
        after = steps(resumed, lambda k: halves(rank, k), first=RESUMED)
        torch.save((losses, after, weights), Path(folder, f"{stage}-{rank}.pt"))


def save_partitioned_bf16_run(rank: int, folder: str) -> None:
    """Losses at stage 3 with checkpointing: before Online-Augmentation the decoder is passed twice, nothing else is."""
    model = tiny_model(dtype=torch.float32)
    model.unet.enable_gradient_checkpointing()
    model.controlnet.enable_gradient_checkpointing()
    losses = steps(engine(model, 3, "bf16"), lambda k: halves(rank, k + K), first=-K, last=STEPS - K)
    torch.save(losses, Path(folder, f"partitioned-{rank}.pt"))


def steps(trained: Engine, inputs: Any, first: int = 0, last: int = STEPS) -> torch.Tensor:
    """The losses (steps, terms) of some steps."""
    losses = []
    for k in range(first, last):
        loss, terms = trained.forward(inputs(k), weights_at(K + k, N))
        trained.backward(loss)
        trained.step()
        losses.append(torch.stack(list(terms.values())))
    return torch.stack(losses)


def spawn(folder: Path, cases: list[Case], bf16_stages: list[int]) -> None:
    """Two workers that meet at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, args=(port, str(folder), cases, bf16_stages), nprocs=2)


def check(case: Case, folder: Path) -> None:
    """Against the deep copy of each network, in one process."""
    model = tiny_model(dtype=torch.float32, trained_unet=case[2])
    naive_loss(model, tiny_inputs(TIMESTEPS[0] + TIMESTEPS[1], dtype=torch.float32), K, N).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    found = torch.load(case_file(folder, case))
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def check_bf16(stage: int, folder: Path) -> None:
    """Losses against those of one process, in bf16 and in fp32; those of a resumed run; the dtype of weights."""

    def plain(precision: Any) -> torch.Tensor:
        model = tiny_model(dtype=torch.float32)
        one = TorchEngine(model, learning_rate=1e-3, weight_decay=0.0, accumulation=1, precision=precision)
        return steps(one, lambda k: tiny_inputs(TIMESTEPS[0] + TIMESTEPS[1], k, dtype=torch.float32))

    parts = [torch.load(folder / f"{stage}-{rank}.pt") for rank in (0, 1)]
    losses = torch.stack([part[0] for part in parts]).mean(dim=0)
    torch.testing.assert_close(losses, plain("bf16"), rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(losses, plain("fp32"), rtol=2e-3, atol=2e-4)
    assert all(torch.equal(after, whole[RESUMED:]) for whole, after, _ in parts)
    assert {weight.dtype for weight in parts[0][2].values()} == {torch.float32}


def check_partitioned(folder: Path) -> None:
    """Losses of bf16 with partitioned weights and checkpointing against those of one process."""
    losses = torch.stack([torch.load(folder / f"partitioned-{rank}.pt") for rank in (0, 1)]).mean(dim=0)
    one = TorchEngine(
        tiny_model(dtype=torch.float32),
        learning_rate=1e-3,
        weight_decay=0.0,
        accumulation=1,
        precision="bf16",
    )
    expected = steps(
        one,
        lambda k: tiny_inputs(TIMESTEPS[0] + TIMESTEPS[1], k + K, dtype=torch.float32),
        first=-K,
        last=STEPS - K,
    )
    torch.testing.assert_close(losses, expected, rtol=2e-3, atol=2e-4)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    spawn(folder, CASES, [2])
    return folder


@pytest.mark.cluster
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_equal_the_deep_copys_under_zero(outcome: Path, case: Case) -> None:
    check(case, outcome)


@pytest.mark.cluster
def test_bf16_trains_as_the_plain_engine_resumes_exactly_and_keeps_fp32_weights(outcome: Path) -> None:
    check_bf16(2, outcome)


@pytest.fixture(scope="module")
def single() -> TorchEngine:
    """The small run in one process, with its `rows` of losses and norms."""
    return TorchEngine(small.Small(), learning_rate=1e-2, weight_decay=0.01, accumulation=1, **GIVEN)


@pytest.fixture(scope="module")
def rows(single: TorchEngine) -> torch.Tensor:
    return small.train(single)


def found(outcome: Path, stage: int, offload: bool) -> list[dict[str, Any]]:
    """What both ranks left behind."""
    return [torch.load(outcome / f"small-{stage}-{offload}" / f"found-{rank}.pt") for rank in (0, 1)]


@pytest.mark.cluster
@pytest.mark.parametrize(("stage", "offload"), STAGES)
def test_norm_clipping_schedule_and_averages_are_those_of_one_process(outcome, single, rows, stage, offload):
    parts = found(outcome, stage, offload)
    torch.testing.assert_close(torch.stack([part["rows"] for part in parts]).mean(dim=0), rows)
    assert torch.equal(parts[0]["rows"][:, 1], parts[1]["rows"][:, 1])
    for kind, expected in [("weights", single.full_weights()), ("averages", single.full_weights(True))]:
        torch.testing.assert_close(parts[0]["whole"][kind], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.cluster
@pytest.mark.parametrize(("stage", "offload"), STAGES)
def test_two_workers_go_on_bit_for_bit_from_what_was_written_while_they_trained(outcome, stage, offload):
    for part in found(outcome, stage, offload):
        assert torch.equal(part["after"], part["rows"][CUT:])
        torch.testing.assert_close(part["resumed"], part["whole"], rtol=0, atol=0)


@pytest.mark.cluster
@pytest.mark.parametrize(("stage", "offload"), STAGES)
def test_a_wrong_gradient_of_one_worker_stops_both_before_anything_changes(outcome, stage, offload):
    for part in found(outcome, stage, offload):
        for (message, norm, before, after, nothing_drawn), expected in zip(
            part["diverged"], ["not finite", "not finite", "above train.gradient_limit 0.001"], strict=True
        ):
            assert expected in message
            assert not norm <= 1e-3
            assert after["moments"]
            torch.testing.assert_close(after, before, rtol=0, atol=0)
            assert nothing_drawn


@pytest.mark.cluster
def test_one_process_reads_the_averages_of_two_workers(outcome: Path, single: TorchEngine) -> None:
    def at_the_cut(stage: int) -> dict[str, torch.Tensor]:
        one = TorchEngine(small.Small(), learning_rate=1e-2, weight_decay=0.01, accumulation=1, **GIVEN)
        assert one.averages
        one.averages.load(outcome / f"small-{stage}-False", 2)
        return one.full_weights(averaged=True)

    expected = TorchEngine(small.Small(), learning_rate=1e-2, weight_decay=0.01, accumulation=1, **GIVEN)
    small.train(expected, ks=range(CUT))
    for stage in range(4):
        torch.testing.assert_close(at_the_cut(stage), expected.full_weights(True), rtol=1e-4, atol=1e-6)


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_every_stage_whatever_of_the_unet_learns(tmp_path: Path) -> None:
    stages = [0, 1, 3]
    spawn(tmp_path, MORE, stages)
    for case in MORE:
        check(case, tmp_path)
    for stage in stages:
        check_bf16(stage, tmp_path)
    check_partitioned(tmp_path)
