"""Activations as the int8 codes that integer products read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.quantization.quantized_layers import ActivationQuantizer


class Codes(nn.Module):
    """Rounds an activation to the codes of a quantizer, moved into int8."""

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
        """Lowest and highest code, and what int8 codes are moved by."""
        return self.low, self.high, self.shift

    def grid(self, step: Tensor) -> Tensor:
        """[4]: what values in units of `step` are multiplied with, the zero point, the lowest and the highest int8."""
        zero = self.zero_point.float() - self.shift
        values = step / self.scale, zero, *(torch.full_like(zero, end - self.shift) for end in (self.low, self.high))
        return torch.stack([value.reshape(()).float() for value in values])

    def forward(self, x: Tensor) -> Tensor:
        return to_codes(x, self.scale, self.zero_point, self.ends)


def to_codes(x: Tensor, scale: Tensor, zero_point: Tensor, ends: tuple[int, int, int]) -> Tensor:
    """int8 codes of real values, as `Codes` gives them."""
    low, high, shift = ends
    return ((torch.round(x / scale) + zero_point).clamp(low, high) - shift).to(torch.int8)


class Rounding(nn.Module):
    """The codes of the quantizers that read a product, each as many of its outputs [..., O] as the others.

    Quantizers come with a factor, which an output is multiplied with first. `whole` codes are int8, moved by 128 where
    they have 8 bits, for the next product; others are codes less their zero point, whole numbers that bf16 holds.
    """

    inverse: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, quantizers: list[tuple[Codes, float]], whole: bool) -> None:
        super().__init__()
        columns: dict[str, list[Tensor]] = {"inverse": [], "zero": [], "low": [], "high": []}
        for codes, factor in quantizers:
            zero_point = codes.zero_point.float()
            move = torch.full_like(zero_point, codes.shift) if whole else zero_point
            values = (factor / codes.scale, zero_point - move, codes.low - move, codes.high - move)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value.reshape(1))
        for name, parts in columns.items():
            self.register_buffer(name, torch.cat(parts))
        self.whole = whole

    def forward(self, y: Tensor) -> Tensor:
        parts = y.unflatten(-1, (len(self.inverse), -1))
        inverse, zero, low, high = (t[:, None] for t in (self.inverse, self.zero, self.low, self.high))
        return (torch.round(parts * inverse) + zero).clamp(low, high).flatten(-2)
