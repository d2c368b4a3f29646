"""Affine quantization of a tensor: codes, their meaning, and the differentiable round trip."""

from __future__ import annotations

import torch
from torch import Tensor


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


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Quantize and dequantize, differentiable in x and scale (straight-through rounding, LSQ: arXiv 1902.08153)."""
    if not torch.is_grad_enabled():
        # The same steps in one tensor: most of their time is memory traffic.
        return (x / scale).round_().add_(zero_point).clamp_(qmin, qmax).sub_(zero_point).mul_(scale)
    return ((round_ste(x / scale) + zero_point).clamp(qmin, qmax) - zero_point) * scale
