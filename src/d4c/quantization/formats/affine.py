"""Affine quantization of a tensor: to integer codes, back to real values, and both at once with a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.compiled import can_compile


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes straight through (arXiv 1308.3432)."""
    return x + (x.round() - x).detach()


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Compute the codes clamp(round(x / scale) + zero_point, qmin, qmax).

    Rounds half to even, like QuantizeLinear in ONNX. Values outside the range are clamped; simulation, integer
    reference and exported graph all do so.

    Args:
        x: Values of any shape.
        scale: Positive step, which broadcasts to x.
        zero_point: Code of zero, an integer in a float tensor, which broadcasts to x.
        qmin: Smallest code.
        qmax: Largest code.

    Returns:
        Integers in a float tensor of the shape of x.
    """
    return (torch.round(x / scale) + zero_point).clamp(qmin, qmax)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The values scale * (codes - zero_point) that codes stand for; inverse of `quantize` up to rounding."""
    return (codes - zero_point) * scale


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, dropped: Tensor | None = None
) -> Tensor:
    """Quantize and dequantize, differentiable in x and scale (straight-through rounding, LSQ: arXiv 1902.08153).

    Args:
        x: Values of any shape.
        scale: Positive step, which broadcasts to x.
        zero_point: Code of zero, an integer in a float tensor, which broadcasts to x.
        qmin: Smallest code.
        qmax: Largest code.
        dropped: Boolean, of the shape of x; where it is set, x stays as it is (QDrop: arXiv 2203.05740).

    Returns:
        A tensor of the shape of x.
    """
    if x.is_cuda and can_compile():
        from d4c.kernels import soft_rounding as rounding

        if rounding.fits(x, scale):
            return rounding.fake_quantize(x, scale, zero_point, qmin, qmax, dropped)
    if not torch.is_grad_enabled() and dropped is None:
        # The same steps in one tensor, since most of their time is memory traffic.
        return (x / scale).round_().add_(zero_point).clamp_(qmin, qmax).sub_(zero_point).mul_(scale)
    y = ((round_ste(x / scale) + zero_point).clamp(qmin, qmax) - zero_point) * scale
    return y if dropped is None else torch.where(dropped, x, y)
