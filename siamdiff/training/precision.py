"""Which device can train in which precision."""

import torch

from siamdiff.errors import UserError
from siamdiff.sections import Precision


def check_precision(precision: Precision, device: torch.device) -> None:
    """Whether a device can train in a precision.

    Raises:
        UserError: fp16 on a CPU, bf16 on a GPU without it.
    """
    if precision == "fp16" and device.type != "cuda":
        raise UserError(
            "train.precision is fp16, which needs a GPU; give --train.precision bf16 or fp32 on a CPU"
        )
    if (
        precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(
            f"train.precision is bf16, which {torch.cuda.get_device_name(device)} has not; "
            "give --train.precision fp16 or fp32"
        )
