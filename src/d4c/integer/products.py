"""A product of int8 codes and what comes right behind it: scales, activation, and the next sum or rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.compiled import can_compile
from d4c.errors import SettingError
from d4c.models.layers import QuickGELU

if TYPE_CHECKING:
    from d4c.integer.integer_linear import Codes

DEPTH = 16
"""The integer products of NVIDIA's library take depths that are multiples of this."""
ROWS = 17
"""And at least this many rows."""


class Rounding(nn.Module):
    """The codes of the quantizers that read a product, each as many of its outputs [..., O] as the others.

    Quantizers come with a factor, which an output is multiplied with before. `whole` codes are int8, moved by 128 where
    they have 8 bits, for the next product; others are codes less their zero point, whole numbers that bf16 holds.
    """

    inverse: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, quantizers: list[tuple[Codes, float]], whole: bool) -> None:
        super().__init__()
        columns: dict[str, list[Tensor]] = {"inverse": [], "zero": [], "low": [], "high": []}
        for codes, factor in quantizers:
            zero_point = codes.zero_point.float()
            move = torch.full_like(zero_point, codes.shift) if whole else zero_point
            values = (factor / codes.scale, zero_point - move, codes.low - move, codes.high - move)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value.reshape(1))
        for name, parts in columns.items():
            self.register_buffer(name, torch.cat(parts))
        self.whole = whole

    def forward(self, y: Tensor) -> Tensor:
        parts = y.unflatten(-1, (len(self.inverse), -1))
        inverse, zero, low, high = (t[:, None] for t in (self.inverse, self.zero, self.low, self.high))
        return (torch.round(parts * inverse) + zero).clamp(low, high).flatten(-2)


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

        return fused_product(codes, weight, scale, offset, dtype, act, rounding, residual)
    y = int32_product(codes, weight) * scale + offset
    y = y if act is None else cast(Tensor, act(y))
    y = y if rounding is None else cast(Tensor, rounding(y))
    return (y if residual is None else residual.float() + y).to(dtype)


def int32_product(codes: Tensor, weight: Tensor) -> Tensor:
    """codes [R, K] times weight^T [K, O] by PyTorch's library; K is a multiple of `DEPTH`."""
    rows = len(codes)
    return torch._int_mm(F.pad(codes, (0, 0, 0, max(0, ROWS - rows))), weight.t())[:rows]


def check_activation(act: nn.Module) -> None:
    """Raises SettingError for an activation that the kernel does not know."""
    if not isinstance(act, QuickGELU | nn.GELU):
        raise SettingError(f"the activation {type(act).__name__} has no integer kernel; use runtime='torch'.")
