"""What is copied before it is written."""

import errno
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from siamdiff.training.snapshot import copied, save


def test_a_copy_keeps_structure_values_and_strides_and_shares_nothing():
    image = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = OrderedDict(a=[image, ("text", 1)], shape=torch.Size([2, 3]), nested={1: {"b": torch.tensor(2)}})
    before = image.clone()
    copy = copied(state)
    image.zero_()
    assert type(copy) is OrderedDict and list(copy) == list(state)
    assert torch.equal(copy["a"][0], before)
    assert copy["a"][0].is_contiguous(memory_format=torch.channels_last)
    assert copy["a"][1] == ("text", 1) and copy["shape"] == torch.Size([2, 3])
    assert copy["nested"][1]["b"].item() == 2


def test_of_a_view_nothing_but_the_view_is_kept():
    flat = torch.arange(1000.0, requires_grad=True)
    copy = copied({"view": flat[10:20]})["view"]
    assert copy.untyped_storage().nbytes() == 40
    assert not copy.requires_grad
    assert torch.equal(copy, torch.arange(10.0, 20.0))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_is_told_as_one():
    with pytest.raises(OSError) as caught:
        save({"large": torch.zeros(1_000_000)}, Path("/dev/full"))
    assert caught.value.errno == errno.ENOSPC
