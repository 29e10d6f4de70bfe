"""Size and cost at Stable Diffusion 1.5 size, on the meta device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.flops import sd15


def test_trainable_parameters() -> None:
    assert sum(p.numel() for p in sd15().parameters() if p.requires_grad) == 874_264_516


@pytest.mark.soak
def test_arithmetic_stays_within_its_limits() -> None:
    repository = Path(__file__).parents[2]
    command = [sys.executable, "benchmarks/flops.py", "--json"]
    printed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    tflop = json.loads(printed)
    assert tflop.keys() == {"train_before", "train_after", "sample_image"}
    assert 2.5 < tflop["train_before"] <= 2.70
    assert 2.8 < tflop["train_after"] <= 3.00
    assert 55.5 < tflop["sample_image"] <= 56.0
