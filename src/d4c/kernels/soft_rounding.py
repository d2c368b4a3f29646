"""Rounding with gradients as Triton kernels: of activations to their grid, and of weights between floor and ceiling.

As PyTorch operations each is about ten small kernels and as many for its gradient, which take most of the time of
learned rounding and of an evaluation on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from d4c.compiled import on_its_gpu
from d4c.kernels.round_half_even import nearest

BLOCK = 1024
"""Elements that a program takes at once."""
PROGRAMS = 1024
"""Largest number of programs, each of which writes one part of a scale's gradient."""


@triton.jit
def _clamp(x, low, high):
    x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _forward(x, scale, zero, dropped, out, size, low, high, DROP: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    s, z = tl.load(scale), tl.load(zero)
    value = tl.load(x + at, mask=inside, other=0.0)
    y = (_clamp(nearest(tl.div_rn(value, s)) + z, low, high) - z) * s
    if DROP:
        y = tl.where(tl.load(dropped + at, mask=inside, other=0) != 0, value, y)
    tl.store(out + at, y, mask=inside)


@triton.jit
def _backward(
    x, scale, zero, dropped, gradient, of_x, parts, size, low, high, DROP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    s, z = tl.load(scale), tl.load(zero)
    gradient_of_scale = tl.zeros((BLOCK,), tl.float32)
    for start in range(tl.program_id(0) * BLOCK, size, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        in_bounds = at < size
        exact = tl.div_rn(tl.load(x + at, mask=in_bounds, other=0.0), s)
        g = tl.load(gradient + at, mask=in_bounds, other=0.0)
        code = nearest(exact) + z
        inside = (code >= low) & (code <= high)
        of_scale = _clamp(code, low, high) - z - tl.where(inside, exact, 0.0)
        passed = inside
        if DROP:
            whole = tl.load(dropped + at, mask=in_bounds, other=0) != 0
            of_scale, passed = tl.where(whole, 0.0, of_scale), inside | whole
        gradient_of_scale += g * of_scale
        tl.store(of_x + at, tl.where(passed, g, 0.0), mask=in_bounds)
    tl.store(parts + tl.program_id(0), tl.sum(gradient_of_scale, 0))


@triton.jit
def _soft(alpha, temperature, at, in_bounds):
    """sigmoid(T alpha), and the offset before it is clamped to 0 .. 1."""
    share = tl.sigmoid(tl.load(temperature) * tl.load(alpha + at, mask=in_bounds, other=0.0))
    return share, share * 1.2 - 0.1  # zeta - gamma and gamma of d4c.quantization.rounding.adaround


@triton.jit
def _soft_forward(
    alpha, floor, scale, zero, temperature, out, size, columns, low, high, BLOCK: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_bounds = at < size
    s, z = (
        tl.load(scale + at // columns, mask=in_bounds, other=1.0),
        tl.load(zero + at // columns, mask=in_bounds, other=0.0),
    )
    _, offset = _soft(alpha, temperature, at, in_bounds)
    code = tl.load(floor + at, mask=in_bounds, other=0.0) + _clamp(offset, 0.0, 1.0) + z
    tl.store(out + at, (_clamp(code, low, high) - z) * s, mask=in_bounds)


@triton.jit
def _soft_backward(
    alpha, floor, scale, zero, temperature, gradient, result, size, columns, low, high, BLOCK: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_bounds = at < size
    s, z = (
        tl.load(scale + at // columns, mask=in_bounds, other=1.0),
        tl.load(zero + at // columns, mask=in_bounds, other=0.0),
    )
    share, offset = _soft(alpha, temperature, at, in_bounds)
    code = tl.load(floor + at, mask=in_bounds, other=0.0) + _clamp(offset, 0.0, 1.0) + z
    moves = (code >= low) & (code <= high) & (offset >= 0) & (offset <= 1)
    slope = tl.load(temperature) * 1.2 * share * (1 - share) * s
    tl.store(
        result + at, tl.where(moves, tl.load(gradient + at, mask=in_bounds, other=0.0) * slope, 0.0), mask=in_bounds
    )


def fits(x: Tensor, scale: Tensor) -> bool:
    """Whether the kernels take a tensor and a scale: float32, and one scale per tensor.

    Programs count elements in 32 bits, up to where the next of their blocks would begin.
    """
    return x.dtype == torch.float32 and scale.numel() == 1 and 0 < x.numel() < 2**31 - BLOCK * PROGRAMS


@on_its_gpu
def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, dropped: Tensor | None) -> Tensor:
    """Fake-quantize a tensor with one scale; see `d4c.quantization.formats.affine.fake_quantize`.

    Args:
        x: float32 values.
        scale: Scale with one element.
        zero_point: Zero point with one element.
        qmin: Smallest code.
        qmax: Largest code.
        dropped: Boolean of the shape of x, true where a value stays as it is.

    Returns:
        The dequantized values, of the shape of x.
    """
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return _FakeQuantize.apply(x, scale, zero_point, qmin, qmax, dropped)  # type: ignore[no-untyped-call]
    return _rounded(_dense(x), scale, zero_point, qmin, qmax, dropped)


def _rounded(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, dropped: Tensor | None) -> Tensor:
    out = torch.empty_like(x)
    mask = x if dropped is None else _laid_out_as(x, dropped)
    blocks = (triton.cdiv(x.numel(), BLOCK),)
    _forward[blocks](
        x, scale, zero_point, mask, out, x.numel(), float(qmin), float(qmax), DROP=dropped is not None, BLOCK=BLOCK
    )
    return out


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, dropped: Tensor | None
    ) -> Tensor:
        x = _dense(x)
        ctx.save_for_backward(x, scale, zero_point, dropped)
        ctx.ends = qmin, qmax
        return _rounded(x, scale, zero_point, qmin, qmax, dropped)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point, dropped = ctx.saved_tensors
        of_x = torch.empty_like(x)
        programs = min(PROGRAMS, triton.cdiv(x.numel(), BLOCK))
        parts = torch.empty(programs, device=x.device)
        _backward[programs,](
            x, scale, zero_point, x if dropped is None else _laid_out_as(x, dropped), _laid_out_as(x, gradient),
            of_x, parts, x.numel(), *(float(end) for end in ctx.ends), DROP=dropped is not None, BLOCK=BLOCK,
        )  # fmt: skip
        of_scale = parts.sum().view_as(scale) if ctx.needs_input_grad[1] else None
        return of_x, of_scale, None, None, None, None


@on_its_gpu
def soft_weight(
    alpha: Tensor, floor: Tensor, scale: Tensor, zero_point: Tensor, temperature: Tensor, qmin: int, qmax: int
) -> Tensor:
    """Compute the soft weight of `d4c.quantization.rounding.adaround.SoftRounding`.

    Args:
        alpha: Rounding variables [O, ...].
        floor: Codes below the float weight [O, ...].
        scale: One scale per row.
        zero_point: One zero point per row.
        temperature: Temperature T with one element.
        qmin: Smallest code.
        qmax: Largest code.

    Returns:
        The weight [O, ...], differentiable by `alpha`.
    """
    return _SoftWeight.apply(alpha, floor, scale, zero_point, temperature, qmin, qmax)  # type: ignore[no-untyped-call]


class _SoftWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, alpha: Tensor, floor: Tensor, scale: Tensor, zero_point: Tensor, temperature: Tensor, *ends: int
    ) -> Tensor:
        operands = alpha, floor, scale, zero_point, temperature
        ctx.save_for_backward(*operands)
        ctx.ends = tuple(float(end) for end in ends)
        out = torch.empty_like(alpha)
        size = alpha.numel()
        _soft_forward[triton.cdiv(size, BLOCK),](*operands, out, size, size // len(alpha), *ctx.ends, BLOCK=BLOCK)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        operands = ctx.saved_tensors
        result = torch.empty_like(operands[0])
        size = result.numel()
        _soft_backward[triton.cdiv(size, BLOCK),](
            *operands, gradient.contiguous(), result, size, size // len(result), *ctx.ends, BLOCK=BLOCK
        )
        return result, None, None, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """The tensor, copied if its elements are not contiguous in any order."""
    size = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length != 1:
            if stride != size:
                return x.contiguous()
            size *= length
    return x


def _laid_out_as(x: Tensor, other: Tensor) -> Tensor:
    """`other` with its elements in the order in memory of those of the dense tensor `x`."""
    if other.stride() == x.stride():
        return other
    return torch.empty_like(x, dtype=other.dtype).copy_(other)
