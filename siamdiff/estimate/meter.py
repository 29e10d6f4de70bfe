"""A meter of arithmetic and memory for whatever runs under it, on the meta device as on a real one."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

aten = torch.ops.aten


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


# GPUs run attention in one kernel that keeps no matrix of scores. The meta device would fall back to single products
# and keep them all, twice the memory of everything else; so attention on it, in this process, is the fused one.
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("scaled_dot_product_attention", _fused_attention, "AutogradMeta")


def _fused_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> int:
    """Products of the backward pass that the result depends on; the kernel's recomputation of scores does not count."""
    for_query, for_key, for_value, _ = args[6]
    products = for_query + for_key + for_value + (for_query or for_key)
    return products * sdpa_flop_count(query.shape, key.shape, value.shape) // 2


_FORMULAS = dict(flop_registry) | {
    aten._scaled_dot_product_efficient_attention_backward: _fused_attention_backward
}


class Meter(TorchDispatchMode):
    """Counts, while it is entered, floating-point operations and the bytes of the tensors that are made.

    An operation counts as PyTorch's own counter counts it: matrix products and convolutions, a multiplication and an
    addition as two. Memory is that of tensors; what kernels take for themselves while they run is not seen.

    Args:
        given: tensors that are there already, weights and inputs, whose bytes are not counted.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.flops = 0
        self.live = 0  # bytes of the tensors that are alive now
        self.peak = 0  # their largest sum so far
        self._storages = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if formula := _FORMULAS.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._storages:
            return
        self._storages.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self.live -= size
