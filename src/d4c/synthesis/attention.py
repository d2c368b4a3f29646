"""Attention whose gradient is the same in every run on a GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ORDERLESS = 128
"""Tokens up to which any kernel will do: gradients of queries are then sums of at most two blocks of 64 keys."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of [N, heads, L, d], in one fused kernel."""
    if k.is_cuda and k.shape[2] > ORDERLESS:
        return long_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def long_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same for any number of tokens, with the forward pass run again for its gradient."""
    result: Tensor = _Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
    return result


class _Attention(torch.autograd.Function):
    """PyTorch picks a kernel with a fixed order only while that is demanded, and its backward kernel goes with it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        given = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        demanded = torch.are_deterministic_algorithms_enabled()
        only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            with torch.enable_grad():
                y = F.scaled_dot_product_attention(*given)
            return torch.autograd.grad(y, given, gradient)
        finally:
            torch.use_deterministic_algorithms(demanded, warn_only=only_warn)
