"""Rounds activations to the int8 codes that integer products read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer


class Codes(nn.Module):
    """Rounds an activation to the codes of a quantizer, shifted into int8.

    Args:
        quantizer: A quantizer with one scale per tensor.

    Raises:
        SettingError: The quantizer has one scale per channel.
    """

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        args = quantizer.args
        if args.strategy == "channel":
            raise SettingError(
                "An input with one scale per channel (track 'paper') has no integer product; quantize with "
                "track='deployable'."
            )
        self.low, self.high = args.qmin, args.qmax
        self.shift = 128 if args.qmax > 127 else 0
        self.scale: Tensor
        self.zero_point: Tensor
        self.register_buffer("scale", quantizer.scale.detach().clone())
        self.register_buffer("zero_point", quantizer.zero_point.clone())

    @property
    def ends(self) -> tuple[int, int, int]:
        """Lowest and highest code, and the shift that is subtracted from codes to fit int8."""
        return self.low, self.high, self.shift

    def grid(self, step: Tensor) -> Tensor:
        """Return the rounding of values in units of `step` as the attention kernel reads it.

        Args:
            step: Unit of the values.

        Returns:
            Factor, zero point, lowest and highest int8 code, float32 [4].
        """
        zero = self.zero_point.float() - self.shift
        values = step / self.scale, zero, *(torch.full_like(zero, end - self.shift) for end in (self.low, self.high))
        return torch.stack([value.reshape(()).float() for value in values])

    def forward(self, x: Tensor) -> Tensor:
        return to_codes(x, self.scale, self.zero_point, self.ends)


def to_codes(x: Tensor, scale: Tensor, zero_point: Tensor, ends: tuple[int, int, int]) -> Tensor:
    """Return the int8 codes of real values.

    Args:
        x: Real values.
        scale: Scale of the quantizer.
        zero_point: Its zero point.
        ends: Lowest and highest code and the shift, as `Codes.ends`.
    """
    low, high, shift = ends
    return ((torch.round(x / scale) + zero_point).clamp(low, high) - shift).to(torch.int8)


class Rounding(nn.Module):
    """Rounds the outputs [..., O] of a product to the codes of the quantizers that read equal parts of them.

    Args:
        quantizers: The quantizers of the parts in order, with the factor that outputs are multiplied with first.
        as_int8: Give int8 codes for the next product, shifted by 128 where they have 8 bits; otherwise give codes minus
            their zero point, integers that bf16 represents exactly.
    """

    inverse: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, quantizers: list[tuple[Codes, float]], as_int8: bool) -> None:
        super().__init__()
        columns: dict[str, list[Tensor]] = {"inverse": [], "zero": [], "low": [], "high": []}
        for codes, factor in quantizers:
            zero_point = codes.zero_point.float()
            shift = torch.full_like(zero_point, codes.shift) if as_int8 else zero_point
            values = (factor / codes.scale, zero_point - shift, codes.low - shift, codes.high - shift)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value.reshape(1))
        for name, parts in columns.items():
            self.register_buffer(name, torch.cat(parts))
        self.as_int8 = as_int8

    def forward(self, y: Tensor) -> Tensor:
        parts = y.unflatten(-1, (len(self.inverse), -1))
        inverse, zero, low, high = (t[:, None] for t in (self.inverse, self.zero, self.low, self.high))
        return (torch.round(parts * inverse) + zero).clamp(low, high).flatten(-2)
