"""A product of int8 codes and what directly follows it: scales, activation, and the next sum or rounding."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.compiled import can_compile
from d4c.errors import SettingError
from d4c.integer.codes import Rounding
from d4c.models.layers import QuickGELU

DEPTH = 16
"""The integer products of NVIDIA's library take depths that are multiples of this."""
ROWS = 17
"""And at least this many rows."""


def product(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    offset: Tensor,
    *,
    dtype: torch.dtype,
    act: nn.Module | None = None,
    rounding: Rounding | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """act(scale (codes weight^T) + offset), rounded or added to `residual` [R, O] where asked: [R, O] of `dtype`.

    `codes` [R, K] and `weight` [O, K] are int8, `scale` and `offset` [O] float32. Rounded to whole codes the result is
    int8. On a GPU with Triton it is one kernel, which multiplies on the integer units and writes nothing in between.
    """
    if rounding is not None and rounding.whole:
        dtype = torch.int8
    if codes.is_cuda and can_compile():
        from d4c.kernels.integer_product import fused_product

        grid = None if rounding is None else (rounding.inverse, rounding.zero, rounding.low, rounding.high)
        activation = None if act is None else activation_name(act)
        return fused_product(codes, weight, scale, offset, dtype, activation, grid, residual)
    y = int32_product(codes, weight) * scale + offset
    y = y if act is None else cast(Tensor, act(y))
    y = y if rounding is None else cast(Tensor, rounding(y))
    return (y if residual is None else residual.float() + y).to(dtype)


def int32_product(codes: Tensor, weight: Tensor) -> Tensor:
    """codes [R, K] times weight^T [K, O] by PyTorch's library; K is a multiple of `DEPTH`."""
    rows = len(codes)
    return torch._int_mm(F.pad(codes, (0, 0, 0, max(0, ROWS - rows))), weight.t())[:rows]


def activation_name(act: nn.Module) -> Literal["quick_gelu", "gelu"]:
    """What the kernel calls an activation; raises SettingError for one that it does not know."""
    if isinstance(act, QuickGELU):
        return "quick_gelu"
    if isinstance(act, nn.GELU):
        return "gelu"
    raise SettingError(f"The activation {type(act).__name__} has no integer kernel; use runtime='torch'.")
