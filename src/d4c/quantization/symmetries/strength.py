"""Factors for the channels of an axis: how much of their widths goes into the weights that read them.

Scaling a channel of width w by 1 / r scales the column c of its readers by r. The product p = w c stays, whatever form
a checkpoint came in, so that factors which depend on it alone bring all forms onto one: with r = w / p^(1 - s) the
widths become p^(1 - s) and the columns p^s. At strength s = 1 all channels have one width (RepQ-ViT, arXiv 2212.08254),
at s = 0 all columns are equally large, at 1/2 both sides share (SmoothQuant, arXiv 2211.10438). Which strength costs
least depends on the bits, so several are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.quantization.formats.affine import fake_quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.placement import LayerPlan
from d4c.quantization.ranges.search import search, search_symmetric, summarize
from d4c.quantization.ranges.thinning import thin

FLOOR = 1e-3
"""Smallest product of width and column, relative to the largest: below it a channel is dead and keeps its scale."""
OUTPUTS = 32
"""Output channels of a reader that its error is measured on."""


@dataclass(frozen=True)
class Reader:
    """A linear layer or convolution that reads an axis.

    Attributes:
        layer: The layer.
        sample: Some of its inputs [n, L, C] or [n, C, H, W].
        plan: The formats that it will be quantized in.
    """

    layer: nn.Linear | nn.Conv2d
    sample: Tensor
    plan: LayerPlan

    def columns(self, widths: Tensor) -> Tensor:
        """Root mean square of each column of the weight [C], every row relative to its largest product.

        What the layer writes may be in any form too, which the division by rows takes out.
        """
        weight = self.layer.weight.double()
        squares = weight.square().flatten(2).sum(2) if weight.ndim == 4 else weight.square()
        largest = (squares * widths.square()).amax(1, keepdim=True)
        return (squares / largest.clamp(min=torch.finfo(torch.float64).tiny)).mean(0).sqrt()

    def error(self, factors: Tensor) -> float:
        """Mean squared error of the outputs, each relative to its variance, with input and weight scaled and quantized.

        Args:
            factors: What the channels are divided by [C].
        """
        assert self.plan.weights is not None
        weight = self.layer.weight[:: -(-len(self.layer.weight) // OUTPUTS)]
        channels = (1, -1) if weight.ndim == 2 else (1, -1, 1, 1)
        x = (self.sample / (factors if weight.ndim == 2 else factors[:, None, None])).float()
        weight = (weight * factors.view(channels)).float()
        expected = self._product(x, weight)
        actual = self._product(_rounded(x, self.plan.inputs[0]), _rounded_rows(weight, self.plan.weights))
        error, variance = (actual - expected).square().mean(0), expected.var(0, correction=0)
        return float((error / variance.clamp(min=torch.finfo(variance.dtype).tiny)).mean())

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Outputs [positions, O] without bias."""
        if isinstance(self.layer, nn.Conv2d):
            y = F.conv2d(x, weight, None, self.layer.stride, self.layer.padding)
            return y.movedim(1, -1).flatten(0, -2)
        return F.linear(x, weight).flatten(0, -2)


def best_factors(widths: Tensor, readers: Sequence[Reader], strengths: Sequence[float]) -> Tensor:
    """What to divide the channels by [C], at the strength with the least mean error of the readers.

    Args:
        widths: Width of each channel [C].
        readers: What reads them.
        strengths: The strengths to try.
    """
    columns = torch.stack([reader.columns(widths) for reader in readers]).amax(0)
    candidates = [factors(widths, columns, strength) for strength in strengths]
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda candidate: sum(reader.error(candidate) for reader in readers))


def factors(widths: Tensor, columns: Tensor, strength: float) -> Tensor:
    """What to divide channels by [C], so that their widths become p^(1 - strength) with p = widths * columns.

    A dead channel, whose p is next to nothing, is treated as one that is barely alive: by a wider channel where it has
    a column, by a larger column where it has a width. What has neither keeps its scale.
    """
    product = widths * columns
    floor = FLOOR * product.max()
    tiny = torch.finfo(torch.float64).tiny
    dead = product < floor
    columns = torch.where(dead & (columns <= 0) & (widths > 0), floor / widths.clamp(min=tiny), columns)
    alive = columns > 0
    widths = torch.where(dead & alive, floor / columns.clamp(min=tiny), widths)
    divisors = widths / (widths * columns).clamp(min=tiny).pow(1 - strength)
    return torch.where((floor > 0) & alive, divisors, torch.ones_like(divisors))


def _rounded(x: Tensor, args: QuantArgs) -> Tensor:
    """A tensor, fake-quantized with a range that is searched on about a thousand of its values."""
    scale, zero_point = search(thin(summarize(x.reshape(1, -1)), 1024, 128), args.num_bits)
    return fake_quantize(x, scale, zero_point, args.qmin, args.qmax)


def _rounded_rows(weight: Tensor, args: QuantArgs) -> Tensor:
    """Weights [O, ...], fake-quantized with a symmetric range per row."""
    rows = weight.flatten(1)
    scale = search_symmetric(summarize(rows), args.qmin, args.qmax)[:, None]
    return fake_quantize(rows, scale, torch.zeros_like(scale), args.qmin, args.qmax).view_as(weight)
