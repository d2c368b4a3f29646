"""The Triton kernel of `integer.products`: multiplies int8 tiles on the tensor cores and finishes them before writing.

Without it a product writes int32 and the next kernel reads it again, which takes longer than int8 saves.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from d4c.compiled import on_its_gpu
from d4c.kernels.round_half_even import to_code

Grid = tuple[Tensor, Tensor, Tensor, Tensor]
"""Factor, zero point, lowest and highest code of the Q quantizers that read the product, each of the four [Q]."""
ACTIVATIONS = {None: 0, "quick_gelu": 1, "gelu": 2, "gelu_tanh": 3}
GROUP = 8
"""Tiles of rows that follow one another, so that the weights they share stay in the cache."""
TILES = ((128, 128, 128, 4, 3), (128, 128, 64, 4, 5), (128, 64, 64, 4, 4))
"""Rows, columns, depth, warps and stages of the tiles from which the first call of a shape chooses."""


def _configs() -> list[Any]:
    return [
        triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps, num_stages=stages)
        for rows, columns, depth, warps, stages in TILES
    ]


@triton.jit
def _tanh(x):
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.autotune(configs=_configs(), key=["o", "k", "ACT", "ROUND", "ADD", "rows_class"])
@triton.heuristics({"WHOLE": lambda arguments: arguments["k"] % arguments["DEPTH"] == 0})
@triton.jit(do_not_specialize=["r", "rows_class"])
def _kernel(
    a, b, scale, offset, inverse, zero, low, high, residual, out,
    r, o, k, rows_class,
    PART: tl.constexpr, ACT: tl.constexpr, ROUND: tl.constexpr, ADD: tl.constexpr, WHOLE: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    down, across = tl.cdiv(r, ROWS), tl.cdiv(o, COLUMNS)
    first = tile // (GROUP * across) * GROUP
    height = min(down - first, GROUP)
    row = (first + tile % (GROUP * across) % height) * ROWS + tl.arange(0, ROWS)
    first_column = tile % (GROUP * across) // height * COLUMNS
    column = first_column + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    # Rows and columns beyond the end are computed from others and not written.
    a_at = a + (row % r).to(tl.int64)[:, None] * k + depth[None, :]
    b_at = b + (column % o)[None, :] * k + depth[:, None]
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    for start in range(0, k, DEPTH):
        if WHOLE:
            x, w = tl.load(a_at), tl.load(b_at)
        else:
            inside = depth < k - start
            x, w = tl.load(a_at, mask=inside[None, :], other=0), tl.load(b_at, mask=inside[:, None], other=0)
        sums = tl.dot(x, w, sums, out_dtype=tl.int32)
        a_at += DEPTH
        b_at += DEPTH

    in_bounds = column < o
    y = sums.to(tl.float32) * tl.load(scale + column, mask=in_bounds, other=0.0)[None, :]
    y += tl.load(offset + column, mask=in_bounds, other=0.0)[None, :]
    if ACT == 1:
        # y sigmoid(1.702 y), with one instruction for the only part that is not a sum or product.
        half = 0.5 * y
        y = half * _tanh(0.851 * y) + half
    elif ACT == 2:
        y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    elif ACT == 3:
        half = 0.5 * y
        y = half * _tanh(0.7978845608028654 * (y + 0.044715 * y * y * y)) + half
    if ROUND:
        if PART % COLUMNS == 0:  # a tile has one quantizer
            by = first_column // PART
            y = to_code(y, tl.load(inverse + by), tl.load(zero + by), tl.load(low + by), tl.load(high + by))
        else:
            by = tl.minimum(column, o - 1) // PART
            steps, zeros = tl.load(inverse + by)[None, :], tl.load(zero + by)[None, :]
            y = to_code(y, steps, zeros, tl.load(low + by)[None, :], tl.load(high + by)[None, :])
    at = row.to(tl.int64)[:, None] * o + column[None, :]
    inside = (row < r)[:, None] & in_bounds[None, :]
    if ADD:
        y += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@on_its_gpu
def fused_product(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    offset: Tensor,
    dtype: torch.dtype,
    activation: Literal["quick_gelu", "gelu", "gelu_tanh"] | None,
    grid: Grid | None,
    residual: Tensor | None,
) -> Tensor:
    """Compute activation(scale (codes weight^T) + offset), optionally rounded to codes or added to a residual.

    Args:
        codes: int8 [R, K].
        weight: int8 [O, K].
        scale: float32 [O].
        offset: float32 [O].
        dtype: Type of the result.
        activation: Activation that is applied before rounding.
        grid: Rounding of the outputs, in equal parts of O / Q neighbors.
        residual: Summand [R, O].

    Returns:
        The result [R, O] of `dtype`.
    """
    codes, weight = codes.contiguous(), weight.contiguous()
    (r, k), o = codes.shape, len(weight)
    out = torch.empty(r, o, dtype=dtype, device=codes.device)
    # A pointer that the kernel does not read may be any.
    columns = (scale,) * 4 if grid is None else grid
    _kernel[lambda tile: (triton.cdiv(r, tile["ROWS"]) * triton.cdiv(o, tile["COLUMNS"]),)](
        codes, weight, scale, offset, *columns, out if residual is None else residual.contiguous(), out,
        r, o, k, r.bit_length(),
        PART=o if grid is None else o // len(grid[0]),
        ACT=ACTIVATIONS[activation], ROUND=grid is not None, ADD=residual is not None, GROUP=GROUP,
    )  # fmt: skip
    return out
