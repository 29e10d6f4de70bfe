"""GPUs that hours are reckoned for. Figures and their sources: docs/configurations.md."""

from dataclasses import dataclass

import torch

from siamdiff.errors import UserError, nearest
from siamdiff.sections import Precision
from siamdiff.sections.common import Cluster


@dataclass(frozen=True)
class Device:
    """A GPU as its maker's data sheet has it."""

    name: str
    memory: int  # GB
    fp32: float  # peak TFLOPS outside of tensor cores
    half: float  # peak TFLOPS of tensor cores in bf16 and fp16, summed in fp32, without sparsity

    def peak(self, precision: Precision) -> float:
        """TFLOPS in a precision."""
        return self.fp32 if precision == "fp32" else self.half


DEVICES = {
    device.name: device
    for device in (
        Device("RTX 3090", 24, 35.6, 71.2),
        Device("RTX 4090", 24, 82.6, 165.2),
        Device("A10G", 24, 31.5, 70.0),
        Device("L4", 24, 30.3, 121.0),
        Device("L40S", 48, 91.6, 362.0),
        Device("A100-40", 40, 19.5, 312.0),
        Device("A100-80", 80, 19.5, 312.0),
        Device("H100", 80, 66.9, 989.4),
        Device("H200", 141, 66.9, 989.4),
    )
}

# What CUDA calls those whose peak is the table's: no smaller namesakes (H100 PCIe, RTX 4090 D), no slices (MIG).
_CUDA_NAMES = {
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA A10G": "A10G",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
    "NVIDIA A100-PCIE-40GB": "A100-40",
    "NVIDIA A100-SXM4-40GB": "A100-40",
    "NVIDIA A100 80GB PCIe": "A100-80",
    "NVIDIA A100-SXM4-80GB": "A100-80",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
}

# The share of the peak that training and sampling are taken to reach. An assumption, not a measurement of ours: public
# figures for Stable Diffusion lie around a quarter in 16 bit and at a half in fp32 (docs/configurations.md).
UTILISATION: dict[Precision, float] = {"fp32": 0.4, "bf16": 0.25, "fp16": 0.25}


def device_named(name: str) -> Device:
    """The device of a name, whatever its case, spaces and hyphens.

    Raises:
        UserError: the table has no such device.
    """
    for known, device in DEVICES.items():
        if _plain(known) == _plain(name):
            return device
    plain = {_plain(known): known for known in DEVICES}
    hint = nearest(_plain(name), list(plain))
    for short, known in plain.items():
        hint = hint.replace(repr(short), repr(known))
    raise UserError(f"cluster.device {name!r} is none of {', '.join(DEVICES)}{hint}")


def device_by_cuda_name(name: str) -> Device | None:
    """The device that torch.cuda.get_device_name calls so; None where the table does not know its peak."""
    known = _CUDA_NAMES.get(name)
    return DEVICES[known] if known else None


def smallest_gpu() -> int | None:
    """Bytes of the smallest GPU that is visible here; None without one."""
    if not torch.cuda.is_available():
        return None
    return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def memory_to_reckon_with(cluster: Cluster) -> float | None:
    """Bytes of a GPU that a training process will have; None where it has none, or where it is not known.

    Args:
        cluster: how much of a GPU each gets, and which; a GPU that is visible here counts before the one that is named.
    """
    if not cluster.gpus:
        return None
    whole = smallest_gpu() or (1e9 * device_named(cluster.device).memory if cluster.device else None)
    return whole and min(1.0, cluster.gpus) * whole


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
