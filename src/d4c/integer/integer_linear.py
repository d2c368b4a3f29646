"""`IntegerLinear`: linear layers as int8 by int8 products with int32 sums, and the float steps around them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.compiled import fused
from d4c.errors import SettingError
from d4c.integer.codes import Codes, Rounding
from d4c.integer.products import DEPTH, product
from d4c.quantization.formats.packing import pack
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear


class IntegerLinear(nn.Module):
    """Layers that read one input, as one product: y = s_x s_w (sum q_x q_w - z_x sum q_w) + b.

    The terms that do not depend on the input are one vector. Weights of at most 4 bits stay packed, two to a byte,
    and are unpacked for each product; others take a byte.

    Loud channels are a second product `loud`. The weights of the first one that read them are zero, so that it may take
    any code for them. A class token with a range of its own is read by `class_token`, which has the same weights.

    Args:
        layers: Layers that share an input quantizer.
        part: What to read instead of all rows and channels: the loud channels, without bias, or the class token.

    Raises:
        SettingError: A weight has a zero point, or the input has one scale per channel.
    """

    def __init__(
        self,
        layers: Sequence[QuantizedLinear | QuantizedConv2d],
        part: Literal["loud", "class_token"] | None = None,
    ) -> None:
        super().__init__()
        if not all(layer.weight_args.symmetric for layer in layers):
            raise SettingError(
                "Weights with a zero point (track 'paper') have no integer product; quantize with track='deployable'."
            )
        quantizer = layers[0].input_quantizer
        weight = torch.cat([layer.codes.flatten(1) for layer in layers])
        self.loud: IntegerLinear | None = None
        if quantizer.loud is not None:
            channels = quantizer.loud_channels
            self.loud_channels: Tensor
            self.register_buffer("loud_channels", channels.clone())
            if part == "loud":
                weight, quantizer = weight.index_select(1, channels), quantizer.loud
            else:
                weight, self.loud = weight.index_fill(1, channels, 0), IntegerLinear(layers, "loud")
        self.class_token: IntegerLinear | None = None
        if part is None and quantizer.class_token is not None:
            self.class_token = IntegerLinear(layers, "class_token")
        elif part == "class_token":
            quantizer = cast(ActivationQuantizer, quantizer.class_token)
        self.codes = Codes(quantizer)
        scale = torch.cat([layer.weight_scale.flatten() for layer in layers]) * self.codes.scale
        zero = self.codes.zero_point - self.codes.shift
        offset = -(scale.double() * zero.double() * weight.double().sum(1))
        if part != "loud":
            biases = [layer.bias if layer.bias is not None else torch.zeros(len(layer.codes)) for layer in layers]
            offset += torch.cat([bias.to(offset.device) for bias in biases]).double()
        self.outputs, depth = weight.shape
        weight = F.pad(weight, (0, -depth % DEPTH))
        self.packed = all(layer.weight_args.num_bits <= 4 for layer in layers)
        stored = pack(weight, 4, signed=True).view(len(weight), -1) if self.packed else weight.to(torch.int8)
        self.weight: Tensor
        self.scale: Tensor
        self.offset: Tensor
        self.register_buffer("weight", stored if self.class_token is None else self.class_token.weight)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset.float())

    def unpacked(self) -> Tensor:
        """Return int8 weights [O, K], with K padded with zeros to a multiple of `DEPTH`."""
        return unpack_nibbles(self.weight) if self.packed else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map real values [..., K] to float32 [..., O]."""
        loud = None if self.loud is None else self.loud.codes(x.index_select(-1, self.loud_channels))
        y = self.product(self.codes(x), torch.float32, loud=loud)
        return y if self.class_token is None else torch.cat([self.class_token(x[:, :1]), y[:, 1:]], 1)

    def rows(self, outputs: Tensor) -> IntegerLinear:
        """Make the product of some outputs alone, and of outputs of zero up to a multiple of `DEPTH`.

        Args:
            outputs: Indices of outputs.
        """
        part = copy.deepcopy(self)
        part.class_token = None
        part.outputs = len(outputs) + -len(outputs) % DEPTH
        for name in ("weight", "scale", "offset"):
            rows: Tensor = getattr(self, name).index_select(0, outputs)
            setattr(part, name, torch.cat([rows, rows.new_zeros(part.outputs - len(rows), *rows.shape[1:])]))
        return part

    def product(
        self,
        codes: Tensor,
        dtype: torch.dtype,
        act: nn.Module | None = None,
        rounding: Rounding | None = None,
        residual: Tensor | None = None,
        loud: Tensor | None = None,
    ) -> Tensor:
        """Multiply codes, as `d4c.integer.products.product` describes.

        Args:
            codes: int8 codes [..., K].
            dtype: Type of the result; int8 codes have their own.
            act: Activation.
            rounding: Rounding of the result to codes.
            residual: Summand [..., O].
            loud: int8 codes of the loud channels, if there are some, followed by any number of others.

        Returns:
            The result [..., O].

        Raises:
            SettingError: There are loud channels and no codes of them, or a step that does not follow their sum.
        """
        shape = *codes.shape[:-1], self.outputs
        if self.loud is not None:
            if loud is None or act is not None or rounding is not None:
                raise SettingError(
                    "This layer has loud channels, which integer products take only in the second layer of an MLP; "
                    "use runtime='torch'."
                )
            residual = self.loud.product(loud, torch.float32, residual=residual)
        if missing := -codes.shape[-1] % DEPTH:
            codes = F.pad(codes, (0, missing))
        rows = None if residual is None else residual.reshape(-1, self.outputs)
        operands = codes.flatten(0, -2), self.unpacked(), self.scale, self.offset
        return product(*operands, dtype=dtype, act=act, rounding=rounding, residual=rows).view(shape)


@fused
def unpack_nibbles(packed: Tensor) -> Tensor:
    """Unpack two 4-bit codes per byte, the lower one first, from [O, K / 2] to int8 [O, K]."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(1).to(torch.int8) - 8
