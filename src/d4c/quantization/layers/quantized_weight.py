"""Quantized weights: float values until they are frozen, integer codes from then on."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.quantization.formats.affine import dequantize, quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.search import safe_scale, search, search_symmetric, summarize


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


def effective_bits(model: nn.Module) -> float:
    """Mean bits per weight over everything that has a quantized weight; of the token table, the rows in use."""
    counts = [(layer.stored_weights(), layer.weight_args.num_bits) for layer in weighted_layers(model).values()]
    return sum(n * bits for n, bits in counts) / max(1, sum(n for n, _ in counts))


def weighted_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """All layers of a model with quantized weights, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}
