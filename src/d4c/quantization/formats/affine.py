"""Affine quantization of a tensor: codes, their meaning, and the differentiable round trip."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.compiled import can_compile


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes straight through."""
    return x + (x.round() - x).detach()


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Codes clamp(round(x / scale) + zero_point, qmin, qmax), as integers in a float tensor.

    Rounds half to even like ONNX QuantizeLinear; values outside the range are clamped, which is part of the
    definition in simulation, integer reference and exported graph alike.
    """
    return (torch.round(x / scale) + zero_point).clamp(qmin, qmax)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """scale * (codes - zero_point)."""
    return (codes - zero_point) * scale


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, dropped: Tensor | None = None
) -> Tensor:
    """Quantize and dequantize, differentiable in x and scale (straight-through rounding, LSQ: arXiv 1902.08153).

    Where the boolean `dropped`, of the shape of x, is set, x stays as it is (QDrop: arXiv 2203.05740).
    """
    if x.is_cuda and can_compile():
        from d4c.kernels import soft_rounding as rounding

        if rounding.fits(x, scale):
            return rounding.fake_quantize(x, scale, zero_point, qmin, qmax, dropped)
    if not torch.is_grad_enabled() and dropped is None:
        # The same steps in one tensor: most of their time is memory traffic.
        return (x / scale).round_().add_(zero_point).clamp_(qmin, qmax).sub_(zero_point).mul_(scale)
    y = ((round_ste(x / scale) + zero_point).clamp(qmin, qmax) - zero_point) * scale
    return y if dropped is None else torch.where(dropped, x, y)
