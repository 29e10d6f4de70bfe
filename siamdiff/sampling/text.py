"""Keys and values of a text, which no step of sampling changes, computed once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


@contextmanager
def projected_once(*networks: nn.Module) -> Iterator[None]:
    """While the block runs, each cross-attention of the networks projects a text once and then hands out the same.

    A text is known by its tensor, not by its values: give the same tensor (B, L, D), in the networks' dtype, at every
    pass. The values are those of the projection itself, to the last bit. One block at a time: it changes the networks.

    Args:
        networks: UNet, ControlNet, or another with diffusers' attention; left as they were found.
    """
    projections: list[nn.Module] = [
        projection
        for network in networks
        for module in network.modules()
        if isinstance(module, Attention) and module.is_cross_attention
        for projection in (module.to_k, module.to_v)
        if projection is not None
    ]
    for projection in projections:
        projection.forward = _remembering(projection.forward)
    try:
        yield
    finally:
        for projection in projections:
            del projection.forward  # the class's own shows again


def _remembering(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A projection (B, L, D) -> (B, L, C) that computes again only for another tensor than the last."""
    known: tuple[Tensor, Tensor] | None = None

    def once(text: Tensor) -> Tensor:
        nonlocal known
        if known is None or known[0] is not text:
            known = text, forward(text)
        return known[1]

    return once
