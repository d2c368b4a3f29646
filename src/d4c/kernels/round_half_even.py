"""Rounding inside the Triton kernels: to the nearest integer, ties to even.

Triton has no instruction for it on every device. Beyond 2^23 float32 represents only integers, so adding 1.5 * 2^23
rounds, and subtracting it leaves the integer. That holds for magnitudes up to 2^22, far beyond all codes.
"""

from __future__ import annotations

import triton
import triton.language as tl

SHIFT = tl.constexpr(12582912.0)  # 1.5 * 2^23


@triton.jit
def nearest(x):
    return x + SHIFT - SHIFT


@triton.jit
def to_code(x, factor, zero, low, high):
    """The code of a value: clamp(round(factor x) + zero)."""
    return tl.minimum(tl.maximum(nearest(x * factor) + zero, low), high)
