"""Dense Hint Input."""

import pytest
import torch
from torch import nn

from siamdiff.errors import UserError
from siamdiff.model.dhi import DenseHintInput, PatchMerge
from tests.training.reference import tiny_model


def test_an_untrained_dhi_adds_nothing() -> None:
    out = DenseHintInput((4, 4, 8, 8, 16), out_channels=6)(torch.rand(2, 3, 16, 32))
    assert out.shape == (2, 6, 2, 4)
    assert not out.any()


def test_the_papers_widths_are_the_default() -> None:
    widths = [m.out_channels for m in DenseHintInput().modules() if isinstance(m, nn.Conv2d)]
    assert widths == [w for w in (16, 32, 64, 128, 256) for _ in range(3)] + [320]


def test_patch_merge_orders_a_cell_column_by_column() -> None:
    """A cell's pixels (row, col) enter the linear map as 00, 10, 01, 11, each with all its channels."""
    merge = PatchMerge(1, 4)
    merge.norm = nn.Identity()
    with torch.no_grad():
        merge.reduction.weight.copy_(torch.eye(4))
        merge.reduction.bias.zero_()
        image = torch.arange(16.0).reshape(1, 1, 4, 4)
        assert merge(image)[0, :, 0, 0].tolist() == [0.0, 4.0, 1.0, 5.0]
        assert merge(image)[0, :, 1, 0].tolist() == [8.0, 12.0, 9.0, 13.0]


@pytest.mark.parametrize("channels", [(16, 32, 64, 128), (16, 32, 64, 128, 0)])
def test_other_than_five_widths_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="five positive widths"):
        DenseHintInput(channels)


def test_recomputing_gives_the_same_gradients_and_keeps_less() -> None:
    image, kept, gradients = torch.rand(1, 3, 64, 64), [], []
    for recomputes in (False, True):
        network = tiny_model().controlnet
        if recomputes:
            network.enable_gradient_checkpointing()
        saved: list[int] = []

        def keep(x: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            hint = network.hint(image)
        hint.square().sum().backward()
        kept.append(sum(saved))
        gradients.append([p.grad for p in network.controlnet_cond_embedding.parameters()])
    torch.testing.assert_close(*gradients)
    assert kept[1] < kept[0] / 3
