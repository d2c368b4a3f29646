"""Computes attention whose gradient is the same in every run on a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.compiled import can_compile
from d4c.models.layers import join_heads, split_heads

ORDERLESS = 128
"""Tokens up to which any kernel works: gradients of queries are then sums of at most two blocks of 64 keys."""
KERNELS = can_compile()  # looked up here, since the compiler warns of a cached function in what it traces


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v over heads.

    Where possible it is our own kernel, whose gradient adds in a fixed order. The gradient of the libraries' kernels
    adds blocks of keys as they arrive; even their deterministic mode differed between two runs of a compiled ViT-L/14.

    Args:
        qkv: q, k and v side by side [N, L, 3 C].
        heads: Number of heads.

    Returns:
        The joined heads [N, L, C].
    """
    if qkv.is_cuda and KERNELS:
        from d4c.kernels import attention

        if attention.fits(qkv, heads):
            return attention.self_attention(qkv, heads)
    q, k, v = (split_heads(part, heads) for part in qkv.chunk(3, -1))
    if qkv.is_cuda and qkv.shape[1] > ORDERLESS:
        return join_heads(by_products(q, k, v))
    return join_heads(F.scaled_dot_product_attention(q, k, v))


def by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention of q, k and v [N, heads, L, d] by two matrix products, whose gradients are products too."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.to(torch.promote_types(q.dtype, torch.float32)).softmax(-1).to(v.dtype) @ v
