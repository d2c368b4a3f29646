"""Linear layers on integer tensor cores: int8 times int8 to int32, and one fused kernel around each product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLinear
from d4c.quantization.packing import pack

DEPTH = 16
"""The integer products of NVIDIA's library take depths that are multiples of this."""
ROWS = 17
"""And at least this many rows."""


class Codes(nn.Module):
    """Rounds an activation to the codes of a quantizer, moved into int8."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        args = quantizer.args
        if args.strategy == "channel":
            raise SettingError(
                "an input with one scale a channel (track 'paper') has no integer product; quantize with "
                "track='deployable'."
            )
        self.low, self.high = args.qmin, args.qmax
        self.shift = 128 if args.qmax > 127 else 0
        self.scale: Tensor
        self.zero_point: Tensor
        self.register_buffer("scale", quantizer.scale.detach().clone())
        self.register_buffer("zero_point", quantizer.zero_point.clone())

    def rounded(self, x: Tensor) -> Tensor:
        return (torch.round(x.float() / self.scale) + self.zero_point).clamp(self.low, self.high)

    def forward(self, x: Tensor) -> Tensor:
        """int8 codes less `shift`."""
        return (self.rounded(x) - self.shift).to(torch.int8)

    def centred(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Codes less the zero point: integers of at most 8 bits and a sign, which bf16 holds exactly."""
        return (self.rounded(x) - self.zero_point).to(dtype)


class IntegerLinear(nn.Module):
    """y = s_x s_w (sum q_x q_w - z_x sum q_w) + b for layers that read one input, as one product of all.

    The terms that do not depend on the input are one vector. Weights of at most 4 bits stay packed, two to a byte,
    and are unpacked for each product; others take a byte.
    """

    def __init__(self, layers: Sequence[QuantizedLinear | QuantizedConv2d]) -> None:
        super().__init__()
        if not all(layer.weight_args.symmetric for layer in layers):
            raise SettingError(
                "weights with a zero point (track 'paper') have no fast integer product; quantize with "
                "track='deployable'."
            )
        self.codes = Codes(layers[0].input_quantizer)
        weight = torch.cat([layer.codes.flatten(1) for layer in layers])
        scale = torch.cat([layer.weight_scale.flatten() for layer in layers]) * self.codes.scale
        zero = self.codes.zero_point - self.codes.shift
        offset = -(scale.double() * zero.double() * weight.double().sum(1))
        biases = [layer.bias if layer.bias is not None else torch.zeros(len(layer.codes)) for layer in layers]
        offset += torch.cat([bias.to(offset.device) for bias in biases]).double()
        self.depth = weight.shape[1]
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
        """int8 weights [O, K]."""
        if not self.packed:
            return self.weight
        nibbles = torch.stack([self.weight & 15, self.weight >> 4], -1).flatten(1)
        return nibbles.to(torch.int8) - 8

    def forward(self, x: Tensor) -> Tensor:
        """Real values [..., K] to float32 [..., O]."""
        codes = self.codes(x).flatten(0, -2)
        rows = len(codes)
        codes = F.pad(codes, (0, -self.depth % DEPTH, 0, max(0, ROWS - rows)))
        products = torch._int_mm(codes, self.unpacked().t())
        y = products[:rows] * self.scale + self.offset
        return y.view(*x.shape[:-1], len(self.weight))
