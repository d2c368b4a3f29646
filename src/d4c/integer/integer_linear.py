"""`IntegerLinear`: linear layers as int8 by int8 products with int32 sums, and the float steps around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.compiled import fused
from d4c.errors import SettingError
from d4c.integer.codes import Codes, Rounding
from d4c.integer.products import DEPTH, product
from d4c.quantization.formats.packing import pack
from d4c.quantization.quantized_layers import QuantizedConv2d, QuantizedLinear


class IntegerLinear(nn.Module):
    """Layers that read one input, as one product: y = s_x s_w (sum q_x q_w - z_x sum q_w) + b.

    The terms that do not depend on the input are one vector. Weights of at most 4 bits stay packed, two to a byte,
    and are unpacked for each product; others take a byte.

    Args:
        layers: Layers that share an input quantizer.

    Raises:
        SettingError: A weight has a zero point, or the input has one scale per channel.
    """

    def __init__(self, layers: Sequence[QuantizedLinear | QuantizedConv2d]) -> None:
        super().__init__()
        if not all(layer.weight_args.symmetric for layer in layers):
            raise SettingError(
                "Weights with a zero point (track 'paper') have no integer product; quantize with track='deployable'."
            )
        self.codes = Codes(layers[0].input_quantizer)
        weight = torch.cat([layer.codes.flatten(1) for layer in layers])
        scale = torch.cat([layer.weight_scale.flatten() for layer in layers]) * self.codes.scale
        zero = self.codes.zero_point - self.codes.shift
        offset = -(scale.double() * zero.double() * weight.double().sum(1))
        biases = [layer.bias if layer.bias is not None else torch.zeros(len(layer.codes)) for layer in layers]
        offset += torch.cat([bias.to(offset.device) for bias in biases]).double()
        self.outputs, self.depth = weight.shape
        weight = F.pad(weight, (0, -self.depth % DEPTH))
        self.packed = all(layer.weight_args.num_bits <= 4 for layer in layers)
        stored = pack(weight, 4, signed=True).view(len(weight), -1) if self.packed else weight.to(torch.int8)
        self.weight: Tensor
        self.scale: Tensor
        self.offset: Tensor
        self.register_buffer("weight", stored)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset.float())

    def unpacked(self) -> Tensor:
        """Return int8 weights [O, K], with K padded with zeros to a multiple of `DEPTH`."""
        return unpack_nibbles(self.weight) if self.packed else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map real values [..., K] to float32 [..., O]."""
        return self.product(self.codes(x), torch.float32)

    def product(
        self,
        codes: Tensor,
        dtype: torch.dtype,
        act: nn.Module | None = None,
        rounding: Rounding | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Multiply codes, as `d4c.integer.products.product` describes.

        Args:
            codes: int8 codes [..., K].
            dtype: Type of the result; int8 codes have their own.
            act: Activation.
            rounding: Rounding of the result to codes.
            residual: Summand [..., O].

        Returns:
            The result [..., O].
        """
        shape = *codes.shape[:-1], self.outputs
        if missing := -self.depth % DEPTH:
            codes = F.pad(codes, (0, missing))
        rows = None if residual is None else residual.reshape(-1, self.outputs)
        operands = codes.flatten(0, -2), self.unpacked(), self.scale, self.offset
        return product(*operands, dtype=dtype, act=act, rounding=rounding, residual=rows).view(shape)


@fused
def unpack_nibbles(packed: Tensor) -> Tensor:
    """Unpack two 4-bit codes per byte, the lower one first, from [O, K / 2] to int8 [O, K]."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(1).to(torch.int8) - 8
