"""What may be wanted of a training from outside, apart from what needs PyTorch: whoever watches it does without."""

from enum import IntEnum


class Wish(IntEnum):
    """What is wanted between two steps; of several wishes the strongest counts."""

    NOTHING = 0
    CHECKPOINT = 1
    STOP = 2  # after a checkpoint
