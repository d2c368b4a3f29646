"""Factors for the channels of an axis: how much of their widths goes into the weights that read them.

Scaling a channel of width w by 1 / r scales the column c of its readers by r. The product p = w c stays, whatever form
a checkpoint came in, so that factors which depend on it alone bring all forms onto one: with r = w / p^(1 - s) the
widths become p^(1 - s) and the columns p^s. At strength s = 1 all channels have one width (RepQ-ViT, arXiv 2212.08254),
at s = 0 all columns are equally large, at 1/2 both sides share (SmoothQuant, arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FLOOR = 1e-3
"""Smallest product of width and column, relative to the largest: below it a channel is dead and keeps its scale."""


def columns(readers: Sequence[nn.Linear | nn.Conv2d], metrics: Sequence[Tensor | None], widths: Tensor) -> Tensor:
    """How large the column of each channel is in the weights that read it [C], whatever form their outputs are in.

    Args:
        readers: Layers with C input channels.
        metrics: For each reader what its outputs count for, as a quadratic form on the channels of each head
            [heads, d, d] that changes with their basis, such as the second moments of the keys for queries. Without
            one every output counts relative to its largest product.
        widths: Width of each channel [C].
    """
    return torch.stack([_column(layer, m, widths) for layer, m in zip(readers, metrics, strict=True)]).amax(0)


def _column(layer: nn.Linear | nn.Conv2d, metric: Tensor | None, widths: Tensor) -> Tensor:
    weight = layer.weight.double()
    if metric is not None:
        by_head = weight.unflatten(0, (len(metric), -1))
        squares = torch.einsum("hdc,hde,hec->c", by_head, metric, by_head).clamp(min=0)
        return (squares / _not_zero((squares * widths.square()).amax())).sqrt()
    squares = weight.square()
    squares = squares.flatten(2).sum(2) if squares.ndim == 4 else squares
    largest = (squares * widths.square()).amax(1, keepdim=True)
    return (squares / _not_zero(largest)).mean(0).sqrt()


def _not_zero(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(torch.float64).tiny)


def factors(widths: Tensor, columns: Tensor, strength: float) -> Tensor:
    """What to divide channels by [C], so that their widths become p^(1 - strength) with p = widths * columns.

    A dead channel, whose p is next to nothing, is treated as one that is barely alive: by a wider channel where it has
    a column, by a larger column where it has a width. What has neither keeps its scale.
    """
    product = widths * columns
    floor = FLOOR * product.max()
    dead = product < floor
    columns = torch.where(dead & (columns <= 0) & (widths > 0), floor / _not_zero(widths), columns)
    alive = columns > 0
    widths = torch.where(dead & alive, floor / _not_zero(columns), widths)
    divisors = widths / _not_zero(widths * columns).pow(1 - strength)
    return torch.where((floor > 0) & alive, divisors, torch.ones_like(divisors))
