"""Quantized operations without weights: products, sums and pools of activations.

With scales s_a, s_b and zero points z_a, z_b a product of the codes q_a and q_b, K terms per output, is

    y = s_a s_b (sum q_a q_b - z_a sum q_b - z_b sum q_a + K z_a z_b)

accumulated in int32. `forward` evaluates each operation on dequantized tensors, `integer_forward` on codes.

The rows of a softmax differ in range: one attends to a single token, another to all alike. Below 8 bits (strategy
"token") a row is divided by its peak before it is rounded, and its result is multiplied by the peak, which is to say

    softmax(s) v = (exp(s - max s) v) / sum exp(s - max s)

with codes for the exponentials, whose largest is 1 in every row.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import check_int32

LEAST_PEAK = 1e-12
"""Where a row attends to a constant first token alone, the rest of it may be zero."""


class QuantizedPair(nn.Module):
    """An operation on two activations `a` and `b`, each with a quantizer of its own."""

    def __init__(self, a: ActivationQuantizer, b: ActivationQuantizer) -> None:
        super().__init__()
        self.a, self.b = a, b


class QuantizedMatMul(QuantizedPair):
    """The matrix product of two quantized activations, [..., M, K] and [..., K, N]."""

    @property
    def by_row(self) -> bool:
        """Whether rows of `a` are divided by their peaks."""
        return self.a.args.strategy == "token"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if not self.by_row:
            return self.product(a, b)
        peak = row_peaks(a)
        return self.product(a / peak, b) * peak

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """The product of the rounded operands."""
        product: Tensor = self.a(a) @ self.b(b)
        return product

    def integer_forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute the output of `forward` from integer products alone; equal to float32 rounding.

        Raises:
            SettingError: The accumulator overflows int32.
        """
        peak = row_peaks(a) if self.by_row else 1.0
        q_a, q_b = self.a.codes(a / peak), self.b.codes(b)
        z_a, z_b = self.a.zero_point.double(), self.b.zero_point.double()
        accumulator = q_a @ q_b
        check_int32(accumulator)
        depth = a.shape[-1]
        y = accumulator - z_a * q_b.sum(-2, keepdim=True) - z_b * q_a.sum(-1, keepdim=True) + depth * z_a * z_b
        return (y * (self.a.scale.double() * self.b.scale.double()) * peak).float()


def row_peaks(a: Tensor) -> Tensor:
    """The largest value of each row of a softmax [..., M, K], [..., M, 1]; never so small that it cannot divide."""
    return a.amax(-1, keepdim=True).clamp(min=LEAST_PEAK)


class QuantizedAdd(QuantizedPair):
    """The sum of two quantized activations of one shape, each on its own scale."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = self.a(a) + self.b(b)
        return result

    def integer_forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute the output of `forward` from integer codes; equal to float32 rounding."""
        operands = ((self.a, a), (self.b, b))
        terms = [(q.codes(x) - q.zero_point.double()) * q.scale.double() for q, x in operands]
        return (terms[0] + terms[1]).float()


class QuantizedAvgPool2d(nn.Module):
    """The average pool of a quantized activation [N, C, H, W] over adjacent squares."""

    def __init__(self, source: nn.AvgPool2d, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        assert isinstance(source.kernel_size, int)
        self.kernel_size = source.kernel_size
        self.input_quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.input_quantizer(x), self.kernel_size)

    def integer_forward(self, x: Tensor) -> Tensor:
        """Compute the output of `forward` from sums of integer codes; equal to float32 rounding."""
        quantizer = self.input_quantizer
        sums = F.avg_pool2d(quantizer.codes(x), self.kernel_size, divisor_override=1)
        mean = sums / self.kernel_size**2
        return ((mean - quantizer.zero_point.double()) * quantizer.scale.double()).float()
