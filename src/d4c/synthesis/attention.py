"""Attention whose gradient is the same in every run on a GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.graphs import fused

ORDERLESS = 128
"""Tokens up to which any kernel will do: gradients of queries are then sums of at most two blocks of 64 keys."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of [N, heads, L, d], in one fused kernel."""
    if k.is_cuda and k.shape[2] > ORDERLESS:
        return long_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def long_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same for any number of tokens, with a gradient of plain matrix products.

    The gradient of the libraries' kernels adds blocks of keys as they come; asked for an order, it still differed
    between two runs of a compiled ViT-L/14.
    """
    result: Tensor = _Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(q, k, v)
        ctx.save_for_backward(q, k, v, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return attention_gradient(gradient, *ctx.saved_tensors)


@fused
def attention_gradient(g: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v where that of y = P v is `g`, with P = softmax(q k^T / sqrt(d)); all [N, heads, L, d].

    dS = P * (g v^T - rowsum(g * y)), dq = dS k / sqrt(d), dk = dS^T q / sqrt(d), dv = P^T g.
    """
    scale = q.shape[-1] ** -0.5
    weights = (q @ k.transpose(-1, -2)).to(_wide(q)).mul(scale).softmax(-1)
    inner = (g.to(weights.dtype) * y).sum(-1, keepdim=True)
    scores = (weights * (g @ v.transpose(-1, -2) - inner) * scale).to(q.dtype)
    return scores @ k, scores.transpose(-1, -2) @ q, weights.to(g.dtype).transpose(-1, -2) @ g


def _wide(x: Tensor) -> torch.dtype:
    """What softmax is computed in: float32, or what is wider."""
    return torch.promote_types(x.dtype, torch.float32)
