"""Multiplies int8 codes and applies what directly follows: scales, activation, and the next sum or rounding."""

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
"""The integer products of NVIDIA's library take multiples of this depth."""
ROWS = 17
"""The integer products of NVIDIA's library take at least this many rows."""


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
    """Compute act(scale (codes weight^T) + offset), optionally rounded or added to a residual.

    On a GPU with Triton it is one kernel, which multiplies on the integer units and writes nothing in between.

    Args:
        codes: int8 [R, K].
        weight: int8 [O, K].
        scale: float32 [O].
        offset: float32 [O].
        dtype: Type of the result, unless it is rounded to int8 codes.
        act: Activation.
        rounding: Rounding of the result to codes.
        residual: Summand [R, O].

    Returns:
        The result [R, O].
    """
    if rounding is not None and rounding.as_int8:
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
    """Multiply codes [R, K] by weight^T [K, O] with PyTorch's library; K is a multiple of `DEPTH`."""
    rows = len(codes)
    return torch._int_mm(F.pad(codes, (0, 0, 0, max(0, ROWS - rows))), weight.t())[:rows]


def activation_name(act: nn.Module) -> Literal["quick_gelu", "gelu", "gelu_tanh"]:
    """Return the kernel's name of an activation; raise SettingError if it has none."""
    if isinstance(act, QuickGELU):
        return "quick_gelu"
    if isinstance(act, nn.GELU):
        return "gelu_tanh" if act.approximate == "tanh" else "gelu"
    raise SettingError(f"The activation {type(act).__name__} has no integer kernel; use runtime='torch'.")
