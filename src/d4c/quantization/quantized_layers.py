"""Quantized layers: simulation in floating point, and the integer arithmetic that it stands for.

A layer with scalar input scale s_x, zero point z_x and weight scales s_w a channel computes

    y = s_x s_w (sum q_x q_w - z_x sum q_w - z_w sum q_x + K z_x z_w) + b

accumulated in int32; a convolution with symmetric weights holds its bias b in steps of s_x s_w, since runtimes
accumulate it too. `forward` evaluates it on dequantized tensors, `integer_forward` on codes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.quantization.formats.affine import dequantize, fake_quantize, quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.ranges.search import safe_scale, search, search_symmetric, summarize

INT32_MAX = 2**31 - 1


class ActivationQuantizer(nn.Module):
    """Fake quantizer of an activation: per tensor, or per channel of the last axis."""

    def __init__(self, args: QuantArgs, channels: int | None = None) -> None:
        super().__init__()
        self.args = args
        shape = (channels,) if args.strategy == "channel" and channels else ()
        self.scale = nn.Parameter(torch.ones(shape), requires_grad=False)
        self.zero_point: Tensor
        self.register_buffer("zero_point", torch.zeros(shape))
        self.observer: Observer | None = None
        self.enabled = True
        self.drop = 0.0  # probability that an element stays float during reconstruction (QDrop)

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.add(x)
            return x
        if not self.enabled:
            return x
        dropped = torch.rand_like(x) < self.drop if self.drop else None
        return fake_quantize(x, self.scale, self.zero_point, self.args.qmin, self.args.qmax, dropped)

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of x in a float64 tensor."""
        return quantize(x, self.scale, self.zero_point, self.args.qmin, self.args.qmax).double()

    def set_range(self, scale: Tensor, zero_point: Tensor) -> None:
        with torch.no_grad():
            self.scale.copy_(scale)
            self.zero_point.copy_(zero_point)


class QuantizedLayer(nn.Module):
    """A layer with a weight. It holds float weights until `freeze`, integer codes from then on.

    `weight` is always what `forward` multiplies with; while `soft_weight` is set (AdaRound), its value is used.
    """

    codes: Tensor
    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor

    def __init__(self, source: nn.Module, weight_args: QuantArgs) -> None:
        super().__init__()
        weight: Tensor = source.weight  # type: ignore[assignment]
        self.weight_args = weight_args
        self.weight_shape = tuple(weight.shape)
        self.float_weight: Tensor | None = weight.detach()
        self.register_buffer("weight", weight.detach().clone())
        shape = (len(weight),) + (1,) * (weight.ndim - 1)
        self.register_buffer("weight_scale", torch.ones(shape))
        self.register_buffer("weight_zero_point", torch.zeros(shape))
        self.register_buffer("codes", torch.zeros(self.weight_shape, dtype=torch.int16))
        self.soft_weight: Any = None

    def calibrate_weight(self) -> None:
        """Choose the range of each output channel and round to nearest."""
        weight = self.source_weight()
        scale, zero_point = self.weight_range(weight.flatten(1).float())
        self.weight_scale.copy_(scale.view_as(self.weight_scale))
        self.weight_zero_point.copy_(zero_point.view_as(self.weight_scale))
        args = self.weight_args
        self.set_codes(quantize(weight, self.weight_scale, self.weight_zero_point, args.qmin, args.qmax))

    def weight_range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of each row, by search."""
        points, args = summarize(rows), self.weight_args
        if args.symmetric:
            scale = search_symmetric(points, args.qmin, args.qmax)
            return scale, torch.zeros_like(scale)
        return search(points, args.num_bits)

    def set_codes(self, codes: Tensor) -> None:
        """Fix the integer weights; `weight` becomes what they stand for."""
        self.codes.copy_(codes)
        self.weight.copy_(dequantize(self.codes.float(), self.weight_scale, self.weight_zero_point))

    def stored_weights(self) -> int:
        """How many codes an artifact holds for this layer."""
        return self.codes.numel()

    def freeze(self) -> None:
        """Drop the float weights."""
        self.float_weight = None
        self.soft_weight = None

    def source_weight(self) -> Tensor:
        """The float weights; raises SettingError once the layer is frozen."""
        if self.float_weight is None:
            raise SettingError(
                "This layer is frozen to integers and has no float weights left; quantize the float CLIP."
            )
        return self.float_weight

    def current_weight(self) -> Tensor:
        weight: Tensor = self.weight if self.soft_weight is None else self.soft_weight()
        return weight


class QuantizedEmbedding(QuantizedLayer):
    """A token table with one scale a row; a row is used whole or not at all, so its range is that of its values."""

    def weight_range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        scale = safe_scale(rows.abs().amax(1) / self.weight_args.qmax)
        return scale, torch.zeros_like(scale)

    def used_rows(self) -> Tensor:
        """Boolean [V] of the rows that are not all zero; the others are not stored."""
        return self.codes.any(1)

    def stored_weights(self) -> int:
        return int(self.used_rows().sum()) * self.codes.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.current_weight())

    def integer_forward(self, tokens: Tensor) -> Tensor:
        """Rows of codes times their scale."""
        rows = self.codes.double()[tokens] - self.weight_zero_point.double()[tokens]
        return (rows * self.weight_scale.double()[tokens]).float()


class _Product(QuantizedLayer):
    """What linear layers and convolutions share."""

    bias: Tensor | None

    def __init__(self, source: nn.Linear | nn.Conv2d, weight_args: QuantArgs, quantizer: ActivationQuantizer) -> None:
        super().__init__(source, weight_args)
        self.input_quantizer = quantizer
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().clone())

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's product of real values."""
        return F.linear(x, weight, bias)

    def code_product(self, codes: Tensor, weight: Tensor) -> Tensor:
        """The same product of codes that have been padded already."""
        return F.linear(codes, weight)

    def pad(self, codes: Tensor, zero: Tensor) -> Tensor:
        """Codes with the borders that the layer reads beyond its input."""
        return codes

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.input_quantizer(x), self.current_weight(), self.bias)

    def integer_forward(self, x: Tensor) -> Tensor:
        """The same output from integer products alone, to float32 rounding.

        Raises SettingError if the input has a scale for each channel, which no integer product can factor out,
        or if the accumulator would leave int32.
        """
        quantizer = self.input_quantizer
        if quantizer.args.strategy == "channel":
            raise SettingError(
                "A layer whose input has one scale a channel (track 'paper') has no integer form; "
                "quantize with track='deployable'."
            )
        z_x, z_w = quantizer.zero_point.double(), self.weight_zero_point.double()
        q_x, q_w = self.pad(quantizer.codes(x), z_x), self.codes.double()
        accumulator = self.code_product(q_x, q_w)
        # The zero-point terms are exact integers too; a runtime precomputes the one over weights.
        weight_sum = self.code_product(z_x.expand(q_x.shape), q_w)
        shift = self.code_product(q_x - z_x, torch.ones_like(q_w) * z_w)
        check_int32(accumulator)
        scale = self.input_quantizer.scale.double() * self.weight_scale.double().flatten()
        y = (accumulator - weight_sum - shift) * self._channels(scale)
        return (y if self.bias is None else y + self._channels(self.bias.double())).float()

    def _channels(self, value: Tensor) -> Tensor:
        """A vector over output channels, shaped to broadcast with the output."""
        return value


class QuantizedLinear(_Product):
    """y = x W^T + b on quantized x and W."""


class QuantizedConv2d(_Product):
    """Convolution on quantized input and weight; zero padding is the code of zero."""

    def __init__(self, source: nn.Conv2d, weight_args: QuantArgs, quantizer: ActivationQuantizer) -> None:
        super().__init__(source, weight_args, quantizer)
        self.stride = source.stride
        self.padding = (int(source.padding[0]), int(source.padding[1]))

    def freeze(self) -> None:
        """Drop the float weights, and round the bias to steps of the accumulator, s_x s_w, if weights are symmetric.

        Runtimes add the bias of an integer convolution in the accumulator. A channel without weights takes the scale
        that holds its bias.
        """
        super().freeze()
        if self.bias is None or not self.weight_args.symmetric:
            return
        s_x = self.input_quantizer.scale.detach()
        empty = ~self.codes.flatten(1).any(1).view_as(self.weight_scale)
        own = safe_scale(self.bias.abs() / s_x).view_as(self.weight_scale)
        self.weight_scale.copy_(torch.where(empty, own, self.weight_scale))
        step = s_x * self.weight_scale.flatten()
        self.bias.copy_((self.bias / step).round() * step)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def code_product(self, codes: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(codes, weight, None, self.stride)

    def pad(self, codes: Tensor, zero: Tensor) -> Tensor:
        vertical, horizontal = self.padding
        return F.pad(codes - zero, (horizontal, horizontal, vertical, vertical)) + zero

    def _channels(self, value: Tensor) -> Tensor:
        return value[:, None, None]


class QuantizedPair(nn.Module):
    """What operations on two quantized activations share."""

    def __init__(self, a: ActivationQuantizer, b: ActivationQuantizer) -> None:
        super().__init__()
        self.a, self.b = a, b


class QuantizedMatMul(QuantizedPair):
    """Product of two quantized activations."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        product: Tensor = self.a(a) @ self.b(b)
        return product

    def integer_forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The same product from integer codes, to float32 rounding."""
        q_a, q_b = self.a.codes(a), self.b.codes(b)
        z_a, z_b = self.a.zero_point.double(), self.b.zero_point.double()
        accumulator = q_a @ q_b
        check_int32(accumulator)
        depth = a.shape[-1]
        y = accumulator - z_a * q_b.sum(-2, keepdim=True) - z_b * q_a.sum(-1, keepdim=True) + depth * z_a * z_b
        return (y * (self.a.scale.double() * self.b.scale.double())).float()


class QuantizedAdd(QuantizedPair):
    """Sum of two quantized activations, each on its own scale."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total: Tensor = self.a(a) + self.b(b)
        return total

    def integer_forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The same sum from integer codes, to float32 rounding."""
        operands = ((self.a, a), (self.b, b))
        parts = [(q.codes(x) - q.zero_point.double()) * q.scale.double() for q, x in operands]
        return (parts[0] + parts[1]).float()


class QuantizedAvgPool2d(nn.Module):
    """Average pool of a quantized activation over squares side by side."""

    def __init__(self, source: nn.AvgPool2d, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        assert isinstance(source.kernel_size, int)
        self.kernel_size = source.kernel_size
        self.input_quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.input_quantizer(x), self.kernel_size)

    def integer_forward(self, x: Tensor) -> Tensor:
        """The same averages from sums of integer codes, to float32 rounding."""
        quantizer = self.input_quantizer
        total = F.avg_pool2d(quantizer.codes(x), self.kernel_size, divisor_override=1)
        mean = total / self.kernel_size**2
        return ((mean - quantizer.zero_point.double()) * quantizer.scale.double()).float()


def check_int32(accumulator: Tensor) -> None:
    """Raise SettingError if a sum of products would overflow the accumulator of the hardware."""
    if accumulator.numel() and accumulator.abs().max() > INT32_MAX:
        raise SettingError("A sum of products leaves the int32 accumulator; use fewer bits or a narrower layer.")
