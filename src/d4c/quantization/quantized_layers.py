"""Quantized layers with weights: simulation in floating point, and the integer arithmetic that it stands for.

A layer with one input scale s_x and zero point z_x, and weight scales s_w and zero points z_w per output channel,
computes from the codes q_x and q_w of K products per output

    y = s_x s_w (sum q_x q_w - z_x sum q_w - z_w sum q_x + K z_x z_w) + b

accumulated in int32. A convolution with symmetric weights holds its bias b in steps of s_x s_w, since runtimes
accumulate it too. `forward` evaluates the equation on dequantized tensors, `integer_forward` on codes.

A linear layer may have a few loud input channels, which take another scale s_l and zero point z_l, always at 8 bits.
They are a second small product of the same weights: without weight zero points

    y = s_x s_w sum_{quiet} (q_x - z_x) q_w + s_l s_w sum_{loud} (q_l - z_l) q_w + b
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.quantization.formats.affine import dequantize, fake_quantize, quantize
from d4c.quantization.formats.pair_sums import always_fit, code_limits, convolution_orders, neighbors, rows_that_fit
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.fitting import fitting_scale
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.ranges.search import safe_scale, search, search_symmetric, summarize

INT32_MAX = 2**31 - 1
LOUD_FORMAT = QuantArgs(8, False, "tensor")
"""Number format of loud channels, whatever the bits of the others."""


class ActivationQuantizer(nn.Module):
    """Fake quantizer of an activation: per tensor, or per channel of the last axis.

    While `observer` is set, the quantizer records what it sees and passes it on in float.

    Args:
        args: Number format of the activation.
        channels: Length C of the last axis, needed for one scale per channel and for loud channels.
        loud: Loud channels in rising order, which have a quantizer of their own.

    Raises:
        ValueError: The loud channels are all channels, are not in rising order or not below C, or the format has one
            scale per channel.

    Attributes:
        loud: Quantizer of the loud channels, in `LOUD_FORMAT`; None if there are none.
        loud_channels: Indices of the loud channels, int64.
        quiet_channels: Indices of all others.
        scale: One number [], or one per channel [C].
        zero_point: An integer in a float tensor, of the shape of `scale`.
        observer: Collects the activations that the range is chosen from.
        enabled: False to pass activations on in float.
        drop: Probability that an element stays float during reconstruction (QDrop, arXiv 2203.05740).
    """

    def __init__(self, args: QuantArgs, channels: int | None = None, loud: Sequence[int] = ()) -> None:
        super().__init__()
        self.args = args
        self.loud: ActivationQuantizer | None = None
        if loud:
            self._set_loud(channels or 0, list(loud))
        shape = (channels,) if args.strategy == "channel" and channels else ()
        self.scale = nn.Parameter(torch.ones(shape), requires_grad=False)
        self.zero_point: Tensor
        self.register_buffer("zero_point", torch.zeros(shape))
        self.observer: Observer | None = None
        self.enabled = True
        self.drop = 0.0

    def _set_loud(self, channels: int, loud: list[int]) -> None:
        rising = all(a < b for a, b in pairwise([-1, *loud, channels]))
        if not rising or len(loud) == channels or self.args.strategy == "channel":
            raise ValueError(
                f"The loud channels {loud} are not rising indices of some of {channels} channels of one scale; "
                "give such indices."
            )
        self.loud = ActivationQuantizer(LOUD_FORMAT)
        self.groups = loud, sorted({*range(channels)} - {*loud})
        self.loud_channels: Tensor
        self.quiet_channels: Tensor
        self.place_channels()

    def place_channels(self) -> None:
        """Make the indices of the loud and the quiet channels, which are no part of a state dict."""
        for name, indices in zip(("loud_channels", "quiet_channels"), self.groups, strict=True):
            self.register_buffer(name, torch.tensor(indices), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.add(x if self.loud is None else x.index_select(-1, self.quiet_channels))
        elif not self.enabled:
            return x
        if self.loud is None:
            return x if self.observer is not None else self._rounded(x)
        loud = self.loud(x.index_select(-1, self.loud_channels))
        return x if self.observer is not None else self._rounded(x).index_copy(-1, self.loud_channels, loud)

    def _rounded(self, x: Tensor) -> Tensor:
        dropped = torch.rand_like(x) < self.drop if self.drop else None
        return fake_quantize(x, self.scale, self.zero_point, self.args.qmin, self.args.qmax, dropped)

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of x, without loud channels, in a float64 tensor, whose sums of products are exact."""
        return quantize(x, self.scale, self.zero_point, self.args.qmin, self.args.qmax).double()

    def set_range(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take a scale and a zero point, each of the shape of `scale`."""
        with torch.no_grad():
            self.scale.copy_(scale)
            self.zero_point.copy_(zero_point)


class QuantizedLayer(nn.Module):
    """A layer with a weight [O, ...], of which it holds float values until `freeze` and integer codes from then on.

    Args:
        source: The float layer, which keeps its weight.
        weight_args: Number format of the weight.

    Attributes:
        codes: Integer weights, int16 [O, ...].
        weight: What the codes stand for, in float; `forward` multiplies by it unless `soft_weight` is set.
        weight_scale: One scale per output channel, shaped to broadcast with the weight.
        weight_zero_point: Integers in a float tensor, of the shape of `weight_scale`.
        float_weight: The weight that is quantized; None once the layer is frozen.
        soft_weight: Gives the weight while its rounding is learned (AdaRound).
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
        """Choose the range of each output channel and round the weight to nearest."""
        weight = self.source_weight()
        scale, zero_point = self.weight_range(weight.flatten(1).float())
        self.weight_scale.copy_(scale.view_as(self.weight_scale))
        self.weight_zero_point.copy_(zero_point.view_as(self.weight_scale))
        args = self.weight_args
        codes = quantize(weight, self.weight_scale, self.weight_zero_point, args.qmin, args.qmax)
        limits = self.code_limits()
        self.set_codes(codes if limits is None else codes.clamp(*limits))

    def weight_range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Search the scale [R] and zero point [R] of each of some rows [R, n]."""
        points, args = summarize(rows), self.weight_args
        if args.symmetric:
            scale = search_symmetric(points, args.qmin, args.qmax)
            return scale, torch.zeros_like(scale)
        return search(points, args.num_bits)

    def code_limits(self) -> tuple[Tensor, Tensor] | None:
        """Smallest and largest code of each weight, where they depend on its neighbor."""
        return None

    def pairs_fit(self) -> bool:
        """Whether the products of any two adjacent weights fit 16 bits; a table multiplies nothing."""
        return True

    def set_codes(self, codes: Tensor) -> None:
        """Set the integer weights, and `weight` to what they stand for."""
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
        """The float weight; raises SettingError once the layer is frozen."""
        if self.float_weight is None:
            raise SettingError(
                "The layer is frozen to integers and has no float weights left; quantize the float CLIP again."
            )
        return self.float_weight

    def current_weight(self) -> Tensor:
        """What `forward` multiplies by: `weight`, or the soft weight while its rounding is learned."""
        weight: Tensor = self.weight if self.soft_weight is None else self.soft_weight()
        return weight


class QuantizedEmbedding(QuantizedLayer):
    """A token table with one scale per row, whose range covers all values of the row."""

    def weight_range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        scale = safe_scale(rows.abs().amax(1) / self.weight_args.qmax)
        return scale, torch.zeros_like(scale)

    def used_rows(self) -> Tensor:
        """Boolean [V] of the rows that are not all zero; artifacts leave out the others."""
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
        if quantizer.loud is None:
            return [(quantizer, channels)]
        loud = torch.tensor(quantizer.groups[0])
        return [(quantizer, channels.index_fill(0, loud, -1)), (quantizer.loud, loud)]

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
        inputs = [x]
        if quantizer.loud is not None:
            inputs = [x.index_select(-1, c) for c in (quantizer.quiet_channels, quantizer.loud_channels)]
        products = [
            self._integer_product(part, part_input, codes)
            for (part, codes), part_input in zip(self.code_parts(), inputs, strict=True)
        ]
        y = torch.stack(products).sum(0)
        return (y if self.bias is None else y + self._per_channel(self.bias.double())).float()

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
        takes the weight scale that makes its bias one step.
        """
        super().freeze()
        if self.bias is None or not self.weight_args.symmetric:
            return
        s_x = self.input_quantizer.scale.detach()
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


def effective_bits(model: nn.Module) -> float:
    """Mean bits per weight over everything that has a quantized weight; of the token table, the rows in use."""
    counts = [(layer.stored_weights(), layer.weight_args.num_bits) for layer in weighted_layers(model).values()]
    return sum(n * bits for n, bits in counts) / max(1, sum(n for n, _ in counts))


def weighted_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """All layers of a model with quantized weights, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def check_int32(accumulator: Tensor) -> None:
    """Raise SettingError if a sum of products overflows the accumulator of the hardware."""
    if accumulator.numel() and accumulator.abs().max() > INT32_MAX:
        raise SettingError("A sum of products overflows the int32 accumulator; use fewer bits or a narrower layer.")
