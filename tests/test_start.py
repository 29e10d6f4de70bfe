"""The roads of docs/start.md, their commands run as they stand there."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from siamdiff.data.shardset import ShardSet
from tests.data.raw_folders import make_folder
from tests.model import tiny_sd

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "start.md").read_text()
ON_CPU = (
    "--cluster.gpus 0 --data.resolution 32 --data.max_rejected 0.9 --train.steps 2 --train.batch_size 2 "
    "--train.preview_samples 0 --generate.limit 2 --generate.steps 2 --generate.folds 1"
)


def block(road: str, language: str) -> str:
    """The fenced block of a language in a road's section."""
    section = re.split(r"^## ", PAGE, flags=re.M)
    (text,) = [text for text in section if text.startswith(road)]
    found = re.search(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)
    assert found
    return found[1]


def shell(script: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in the checkout, with a home of its own; it ends at the first command that fails."""
    return subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=REPOSITORY,
        env=os.environ | {"HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def newest(root: Path) -> ShardSet:
    (uri,) = re.findall(r'"uri": "(.*)"', (root / "synthetic" / "latest.json").read_text())
    return ShardSet.open(uri)


@pytest.mark.soak
@pytest.mark.cluster
def test_road_a_ends_in_a_set(s3, tmp_path: Path) -> None:
    assert len(after_road_a(tmp_path)) == 16


@pytest.mark.soak
@pytest.mark.cluster
def test_the_schedule_of_road_a_makes_another_set(s3, tmp_path: Path) -> None:
    first = after_road_a(tmp_path)
    root = tmp_path / ".siamdiff" / "quick"
    (tmp_path / "siamdiff").symlink_to(REPOSITORY)
    line = block("(a)", "cron").strip()
    minute, hour, day, month, weekday, command = line.split(maxsplit=5)
    assert (minute, hour, day, month, weekday) == ("0", "3", "*", "*", "6")
    scheduled = shell(command.replace("\\%", "%"), tmp_path)
    assert scheduled.returncode == 0, (root / "cron.log").read_text()[-3000:]
    assert newest(root).digest != first.digest and len(newest(root)) == 16


def after_road_a(tmp_path: Path) -> ShardSet:
    """The set in which the road ends."""
    done = shell(block("(a)", "sh"), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    root = tmp_path / ".siamdiff" / "quick"
    assert len(list((root / "exported").rglob("*.png"))) == 32
    assert "phase      finished" in done.stdout and "whole: 16 samples" in done.stdout
    return newest(root)


@pytest.mark.soak
@pytest.mark.cluster
def test_road_b_on_a_processor_with_a_small_base(s3, tmp_path: Path) -> None:
    saved = tiny_sd.save_folder(tmp_path / "sd", tiny_sd.networks())
    hub = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    tiny_sd.fill_hub_cache(tmp_path / "hub", saved, hub, "0" * 40)
    make_folder(tmp_path / "images", [str(i) for i in range(12)])
    # the one thing that differs from the page: what a GPU would do in hours
    small = block("(b)", "sh").replace("--data.source ~/images", f"--data.source ~/images {ON_CPU}")
    done = shell(small, tmp_path, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(newest(tmp_path / ".siamdiff" / "images")) == 2
    units = block("(b)", "ini")
    (command,) = re.findall(r"^ExecStart=/bin/sh -c '(.*)'$", units, flags=re.M)
    scheduled = command.replace("%h", str(tmp_path)).replace("%%", "%").removeprefix("exec ")
    done = shell(f"{scheduled} {ON_CPU}", tmp_path, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.soak
@pytest.mark.cluster
def test_road_d_trains_and_queues_again_when_its_hours_are_over(s3, tmp_path: Path) -> None:
    """On one node, in a process namespace of its own: symmetric-run ends every Ray that it sees."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no process namespace can be made here")
    for name, does in {
        "srun": 'exec "$@"',
        "scontrol": 'if [ "$1" = show ]; then hostname; else echo "$@" > "$HOME/requeued"; fi',
    }.items():
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/bash\n{does}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_ID": "7",
    }
    script = (REPOSITORY / "infra" / "slurm" / "train.sbatch").read_text()
    quick = "--config jobs/configs/quick.yaml --train.engine deepspeed --train.workers 1"

    def submit(text: str, *more: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "job.sbatch"
        file.write_text(text)
        command = " ".join([*namespace, "bash", str(file), quick, *more])
        return shell(f"{block('(d)', 'sh')}{command}", tmp_path, **environment)

    # long enough for steps and a checkpoint to be made, not for the end
    stopped = submit(script.replace("HOURS=23", "HOURS=0.015"), "--train.run long --train.steps 100000")
    assert stopped.returncode == 124, stopped.stderr[-3000:]
    assert "stopped by SIGTERM after step" in stopped.stderr + stopped.stdout
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"]
    finished = submit(script)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (tmp_path / ".siamdiff/quick/runs/quick/model/siamdiff.json").exists()
