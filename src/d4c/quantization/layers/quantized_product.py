"""Products of quantized inputs and weights: simulation in floats, and the integer arithmetic that it stands for.

A layer with one input scale s_x and zero point z_x, and weight scales s_w and zero points z_w per output channel,
computes from the codes q_x and q_w of K products per output

    y = s_x s_w (sum q_x q_w - z_x sum q_w - z_w sum q_x + K z_x z_w) + b

accumulated in int32. A convolution with symmetric weights holds its bias b in steps of s_x s_w, since runtimes
accumulate it too. `forward` evaluates the equation on dequantized tensors, `integer_forward` on codes.

A linear layer may have a few loud input channels, which take another scale s_l and zero point z_l, always at 8 bits.
They are a second small product of the same weights: without weight zero points

    y = s_x s_w sum_{quiet} (q_x - z_x) q_w + s_l s_w sum_{loud} (q_l - z_l) q_w + b

The row of the class token may take a scale and a zero point of its own at 8 bits, in place of s_x and z_x: it is the
same product with a second input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.quantization.formats.pair_sums import always_fit, code_limits, convolution_orders, neighbors, rows_that_fit
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.ranges.fitting import fitting_scale
from d4c.quantization.ranges.search import safe_scale

INT32_MAX = 2**31 - 1
LARGEST_BIAS = 2**30
"""Steps of the accumulator that the bias of a convolution may take; the rest is left to the sums of products."""


class _Product(QuantizedLayer):
    """What linear layers and convolutions share: a bias and a quantizer of the input."""

    bias: Tensor | None

    def __init__(self, source: nn.Linear | nn.Conv2d, weight_args: QuantArgs, quantizer: ActivationQuantizer) -> None:
        super().__init__(source, weight_args)
        self.input_quantizer = quantizer
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().clone())

    def unsafe_pairs(self) -> Tensor:
        """Pairs [P, 2] of columns of the flattened weight whose products may not fit 16 bits (see `pair_sums`)."""
        largest = -self.weight_args.qmin
        orders = [order for q, order in self.orders() if not always_fit(largest, q.args.qmax)]
        return neighbors(orders).to(self.codes.device)

    def orders(self) -> list[tuple[ActivationQuantizer, Tensor]]:
        """The orders in which runtimes multiply columns of the weight, each with the quantizer of its inputs.

        The product of the quiet channels keeps the loud ones, with weights of zero: they are -1.
        """
        quantizer, channels = self.input_quantizer, torch.arange(self.weight_shape[1])
        alone: list[tuple[ActivationQuantizer, Tensor]] = []
        if quantizer.loud is not None:
            loud = torch.tensor(quantizer.groups[0])
            alone, channels = [(quantizer.loud, loud)], channels.index_fill(0, loud, -1)
        rows = [quantizer] if quantizer.class_token is None else [quantizer, quantizer.class_token]
        return [*((of_rows, channels) for of_rows in rows), *alone]

    def weight_range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().weight_range(rows)
        if self.weight_args.pairs_fit and len(pairs := self.unsafe_pairs()):
            scale = fitting_scale(rows, scale, pairs, self.weight_args.qmin, self.weight_args.qmax)
        return scale, zero_point

    def code_limits(self) -> tuple[Tensor, Tensor] | None:
        if not self.weight_args.pairs_fit or not len(pairs := self.unsafe_pairs()):
            return None
        steps = (self.source_weight() / self.weight_scale).flatten(1)
        low, high = code_limits(steps, pairs, self.weight_args.qmin, self.weight_args.qmax)
        return low.view(self.weight_shape), high.view(self.weight_shape)

    def pairs_fit(self) -> bool:
        return bool(rows_that_fit(self.codes.flatten(1), self.unsafe_pairs()).all())

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's function of real values."""
        return F.linear(x, weight, bias)

    def code_product(self, codes: Tensor, weight: Tensor) -> Tensor:
        """The same function of codes that `pad` has padded, without bias."""
        return F.linear(codes, weight)

    def pad(self, codes: Tensor, zero: Tensor) -> Tensor:
        """Codes with the borders that the layer reads beyond its input."""
        return codes

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.input_quantizer(x), self.current_weight(), self.bias)

    def integer_forward(self, x: Tensor) -> Tensor:
        """Compute the output of `forward` from integer products alone; equal to float32 rounding.

        Raises:
            SettingError: The input has one scale per channel, which no integer product can factor out, or the
                accumulator overflows int32.
        """
        if self.input_quantizer.args.strategy == "channel":
            raise SettingError(
                "A layer whose input has one scale per channel (track 'paper') has no integer form; "
                "quantize with track='deployable'."
            )
        quantizer = self.input_quantizer
        y = self._integer_sum(quantizer, x)
        if quantizer.class_token is not None:
            y = torch.cat([self._integer_sum(quantizer.class_token, x[:, :1]), y[:, 1:]], 1)
        return (y if self.bias is None else y + self._per_channel(self.bias.double())).float()

    def _integer_sum(self, quiet: ActivationQuantizer, x: Tensor) -> Tensor:
        """The output without bias, in float64, with a quantizer for all channels that are not loud."""
        quantizer = self.input_quantizer
        inputs = [x]
        if quantizer.loud is not None:
            inputs = [x.index_select(-1, c) for c in (quantizer.quiet_channels, quantizer.loud_channels)]
        quantizers, codes = zip(*self.code_parts(), strict=True)
        operands = zip((quiet, *quantizers[1:]), inputs, codes, strict=True)
        return torch.stack([self._integer_product(*each) for each in operands]).sum(0)

    def code_parts(self) -> list[tuple[ActivationQuantizer, Tensor]]:
        """Each quantizer of the input, that of loud channels last, with the integer weights that read its channels."""
        quantizer, codes = self.input_quantizer, self.codes
        if quantizer.loud is None:
            return [(quantizer, codes)]
        return [(quantizer, codes[:, quantizer.quiet_channels]), (quantizer.loud, codes[:, quantizer.loud_channels])]

    def _integer_product(self, quantizer: ActivationQuantizer, x: Tensor, codes: Tensor) -> Tensor:
        """What a part of the input adds to the output, in float64."""
        z_x, z_w = quantizer.zero_point.double(), self.weight_zero_point.double()
        q_x, q_w = self.pad(quantizer.codes(x), z_x), codes.double()
        accumulator = self.code_product(q_x, q_w)
        # The zero-point terms are exact integers too; a runtime computes the one over weights in advance.
        weight_sum = self.code_product(z_x.expand(q_x.shape), q_w)
        shift = self.code_product(q_x - z_x, torch.ones_like(q_w) * z_w)
        check_int32(accumulator)
        scale = quantizer.scale.double() * self.weight_scale.double().flatten()
        return (accumulator - weight_sum - shift) * self._per_channel(scale)

    def _per_channel(self, value: Tensor) -> Tensor:
        """Values per output channel [O], shaped to broadcast with the output."""
        return value


class QuantizedLinear(_Product):
    """A linear layer y = x W^T + b on quantized x and W."""


class QuantizedConv2d(_Product):
    """A convolution on quantized input and weight; it pads with the code of zero."""

    def __init__(self, source: nn.Conv2d, weight_args: QuantArgs, quantizer: ActivationQuantizer) -> None:
        super().__init__(source, weight_args, quantizer)
        self.stride = source.stride
        self.padding = (int(source.padding[0]), int(source.padding[1]))

    def freeze(self) -> None:
        """Drop the float weights, and round the bias to the accumulator's steps s_x s_w if the weights are symmetric.

        Runtimes add the bias of an integer convolution inside the accumulator. A channel whose weights are all zero
        takes the weight scale that makes its bias one step. One whose weights are so small that its bias would not fit,
        as a BatchNorm leaves them that has switched a channel off, takes the scale at which it fits.
        """
        super().freeze()
        if self.bias is None or not self.weight_args.symmetric:
            return
        s_x = self.input_quantizer.scale.detach()
        fitting = (self.bias.abs() / s_x / LARGEST_BIAS).view_as(self.weight_scale)
        if bool((fitting > self.weight_scale).any()):
            coarser = torch.where(fitting > self.weight_scale, 2 * fitting, self.weight_scale)
            # Toward zero, so that no pair of products grows.
            codes = (self.codes * (self.weight_scale / coarser)).trunc()
            self.weight_scale.copy_(coarser)
            self.set_codes(codes)
        empty = ~self.codes.flatten(1).any(1).view_as(self.weight_scale)
        bias_scale = safe_scale(self.bias.abs() / s_x).view_as(self.weight_scale)
        self.weight_scale.copy_(torch.where(empty, bias_scale, self.weight_scale))
        step = s_x * self.weight_scale.flatten()
        self.bias.copy_((self.bias / step).round() * step)

    def orders(self) -> list[tuple[ActivationQuantizer, Tensor]]:
        shape = self.weight_shape[1:]
        patches = self.stride == shape[1:] and not any(self.padding)
        orders = [torch.arange(self.codes[0].numel())] if patches else convolution_orders(*shape)
        return [(self.input_quantizer, order) for order in orders]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def code_product(self, codes: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(codes, weight, None, self.stride)

    def pad(self, codes: Tensor, zero: Tensor) -> Tensor:
        vertical, horizontal = self.padding
        return F.pad(codes - zero, (horizontal, horizontal, vertical, vertical)) + zero

    def _per_channel(self, value: Tensor) -> Tensor:
        return value[:, None, None]


def check_int32(accumulator: Tensor) -> None:
    """Raise SettingError if a sum of products overflows the accumulator of the hardware."""
    if accumulator.numel() and accumulator.abs().max() > INT32_MAX:
        raise SettingError("A sum of products overflows the int32 accumulator; use fewer bits or a narrower layer.")
