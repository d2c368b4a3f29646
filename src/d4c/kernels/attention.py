"""Self-attention as one Triton kernel, reading q, k and v side by side as their product writes them.

Libraries' kernels take q, k and v separately: their gradients have to be joined, sums of a gradient may be added in the
order in which blocks end, and codes for the next product need one more kernel. Here a block of queries or of keys
belongs to one program, which adds in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from d4c.compiled import on_its_gpu
from d4c.kernels.round_half_even import to_code

LOG2_E = 1.4426950408889634
BLOCK = 64
"""Queries and keys that a program takes at once."""
WIDTHS = (16, 32, 64, 128)
"""Channels per head that the kernels take."""


@triton.jit
def _rows(base, at, length, stride, D: tl.constexpr):
    """Rows `at` of [length, D], zeros beyond the end."""
    return tl.load(base + at[:, None] * stride + tl.arange(0, D)[None, :], mask=(at < length)[:, None], other=0.0)


@triton.jit
def _write(base, at, length, stride, values, D: tl.constexpr):
    pointers = base + at[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(pointers, values.to(base.dtype.element_ty), mask=(at < length)[:, None])


@triton.jit
def _forward(
    qkv, grid, out, logs,
    length, heads, factor,
    WIDTH: tl.constexpr, D: tl.constexpr, ROUND: tl.constexpr, LOGS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    n, h = tl.program_id(0) // heads, tl.program_id(0) % heads
    base = qkv + n.to(tl.int64) * length * 3 * WIDTH + h * D
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    q = _rows(base, row, length, 3 * WIDTH, D)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    normalizer = tl.zeros((BLOCK,), tl.float32)
    sums = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        k = _rows(base + WIDTH, column, length, 3 * WIDTH, D)
        v = _rows(base + 2 * WIDTH, column, length, 3 * WIDTH, D)
        scores = tl.where((column < length)[None, :], tl.dot(q, tl.trans(k)) * factor, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        normalizer = normalizer * shrink + tl.sum(weights, 1)
        sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v)
        highest = higher
    y = sums / normalizer[:, None]
    if ROUND:
        y = to_code(y, tl.load(grid), tl.load(grid + 1), tl.load(grid + 2), tl.load(grid + 3))
    _write(out + n.to(tl.int64) * length * WIDTH + h * D, row, length, WIDTH, y, D)
    if LOGS:
        tl.store(logs + tl.program_id(0) * length + row, highest + tl.log2(normalizer), mask=row < length)


@triton.jit
def _gradient_of_scores(q, k, v, g, inner, log, inside, factor):
    weights = tl.where(inside, tl.exp2(tl.dot(q, tl.trans(k)) * factor - log[:, None]), 0.0)
    return weights, weights * (tl.dot(g, tl.trans(v)) - inner[:, None])


@triton.jit
def _queries(base, out, gradient, logs, row, length, WIDTH: tl.constexpr, D: tl.constexpr):
    """What a block of queries brings: themselves, their gradient, its product with the output, and their logarithms."""
    g = _rows(gradient, row, length, WIDTH, D)
    y = _rows(out, row, length, WIDTH, D)
    inner = tl.sum(g.to(tl.float32) * y.to(tl.float32), 1)
    return _rows(base, row, length, 3 * WIDTH, D), g, inner, tl.load(logs + row, mask=row < length, other=0.0)


@triton.jit
def _backward_keys(
    qkv, out, gradient, logs, result,
    length, heads, factor, scale,
    WIDTH: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    n, h = tl.program_id(0) // heads, tl.program_id(0) % heads
    base = n.to(tl.int64) * length * 3 * WIDTH + h * D
    at = n.to(tl.int64) * length * WIDTH + h * D
    logs += tl.program_id(0) * length
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k = _rows(qkv + base + WIDTH, column, length, 3 * WIDTH, D)
    v = _rows(qkv + base + 2 * WIDTH, column, length, 3 * WIDTH, D)
    dk = tl.zeros((BLOCK, D), tl.float32)
    dv = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, length, BLOCK):
        row = start + tl.arange(0, BLOCK)
        q, g, inner, log = _queries(qkv + base, out + at, gradient + at, logs, row, length, WIDTH, D)
        inside = (row < length)[:, None] & (column < length)[None, :]
        weights, scores = _gradient_of_scores(q, k, v, g, inner, log, inside, factor)
        dv += tl.dot(tl.trans(weights.to(g.dtype)), g)
        dk += tl.dot(tl.trans(scores.to(q.dtype)), q)
        if ALL:
            dq = tl.dot(scores.to(k.dtype), k) * scale
            _write(result + base, row, length, 3 * WIDTH, dq, D)
    _write(result + base + WIDTH, column, length, 3 * WIDTH, dk * scale, D)
    _write(result + base + 2 * WIDTH, column, length, 3 * WIDTH, dv, D)


@triton.jit
def _backward_queries(
    qkv, out, gradient, logs, result,
    length, heads, factor, scale,
    WIDTH: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n, h = tl.program_id(0) // heads, tl.program_id(0) % heads
    base = n.to(tl.int64) * length * 3 * WIDTH + h * D
    at = n.to(tl.int64) * length * WIDTH + h * D
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    logs += tl.program_id(0) * length
    q, g, inner, log = _queries(qkv + base, out + at, gradient + at, logs, row, length, WIDTH, D)
    dq = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        k = _rows(qkv + base + WIDTH, column, length, 3 * WIDTH, D)
        v = _rows(qkv + base + 2 * WIDTH, column, length, 3 * WIDTH, D)
        inside = (row < length)[:, None] & (column < length)[None, :]
        _, scores = _gradient_of_scores(q, k, v, g, inner, log, inside, factor)
        dq += tl.dot(scores.to(k.dtype), k)
    _write(result + base, row, length, 3 * WIDTH, dq * scale, D)


def fits(qkv: Tensor, heads: int) -> bool:
    """Whether the kernels take an input: it has 16 bits, and a number of channels per head from `WIDTHS`."""
    return qkv.dtype in (torch.bfloat16, torch.float16) and qkv.shape[-1] // (3 * heads) in WIDTHS


@on_its_gpu
def forward(qkv: Tensor, heads: int, scale: float, grid: Tensor | None = None, logs: Tensor | None = None) -> Tensor:
    """Compute softmax(scale q k^T) v.

    Args:
        qkv: q, k and v side by side [N, L, 3 C].
        heads: Number of heads.
        scale: Factor of the scores.
        grid: Factor, zero point, lowest and highest code [4]; with it the result is clamp(round(factor y) + zero).
        logs: Written with the binary logarithms of the sums of exponentials [N, heads, L], which `backward` reads.

    Returns:
        The joined heads [N, L, C], of the type of `qkv` or int8 with `grid`.
    """
    qkv = qkv.contiguous()
    n, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    out = torch.empty(n, length, width, dtype=qkv.dtype if grid is None else torch.int8, device=qkv.device)
    _forward[n * heads, triton.cdiv(length, BLOCK)](
        qkv, qkv if grid is None else grid, out, qkv if logs is None else logs,
        length, heads, scale * LOG2_E,
        WIDTH=width, D=width // heads, ROUND=grid is not None, LOGS=logs is not None,
        BLOCK=BLOCK, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


@on_its_gpu
def backward(qkv: Tensor, heads: int, scale: float, out: Tensor, logs: Tensor, gradient: Tensor) -> Tensor:
    """Compute the gradient of `forward`.

    Args:
        qkv: q, k and v side by side [N, L, 3 C].
        heads: Number of heads.
        scale: Factor of the scores.
        out: Result of `forward` [N, L, C].
        logs: What `forward` wrote [N, heads, L].
        gradient: Gradient of `out` [N, L, C].

    Returns:
        Gradient of `qkv` [N, L, 3 C].
    """
    n, length, width = out.shape
    result, gradient = torch.empty_like(qkv), gradient.contiguous()
    blocks, single_block = (n * heads, triton.cdiv(length, BLOCK)), length <= BLOCK
    operands = qkv, out, gradient, logs, result, length, heads, scale * LOG2_E, scale
    shape = {"WIDTH": width, "D": width // heads, "BLOCK": BLOCK, "num_warps": 4}
    _backward_keys[blocks](*operands, ALL=single_block, num_stages=1, **shape)
    if not single_block:
        _backward_queries[blocks](*operands, num_stages=2, **shape)
    return result


@torch.library.custom_op("d4c::self_attention", mutates_args=(), device_types="cuda")
def _self_attention(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    n, length, width = qkv.shape
    logs = torch.empty(n, heads, length, dtype=torch.float32, device=qkv.device)
    return forward(qkv, heads, _scale(width, heads), logs=logs), logs


@_self_attention.register_fake
def _(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    n, length, width = qkv.shape
    return qkv.new_empty(n, length, width // 3), qkv.new_empty(n, heads, length, dtype=torch.float32)


@torch.library.custom_op("d4c::self_attention_gradient", mutates_args=(), device_types="cuda")
def _gradient(qkv: Tensor, heads: int, out: Tensor, logs: Tensor, gradient: Tensor) -> Tensor:
    return backward(qkv, heads, _scale(qkv.shape[-1], heads), out, logs, gradient)


@_gradient.register_fake
def _(qkv: Tensor, heads: int, out: Tensor, logs: Tensor, gradient: Tensor) -> Tensor:
    return torch.empty_like(qkv)


def _scale(width: int, heads: int) -> float:
    return float((width // (3 * heads)) ** -0.5)


def _keep(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.heads = inputs[1]


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
    qkv, out, logs = ctx.saved_tensors
    return _gradient(qkv, ctx.heads, out, logs, gradient), None


_self_attention.register_autograd(_differentiate, setup_context=_keep)


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v with a gradient, as an operator that `torch.compile` keeps.

    Args:
        qkv: q, k and v side by side [N, L, 3 C].
        heads: Number of heads.

    Returns:
        The joined heads [N, L, C].
    """
    return _self_attention(qkv, heads)[0]
