"""Ranges from the ends of a distribution: its extremes or its percentiles."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.quantization.ranges.search import Points, safe_scale

PERCENTILE_OUTSIDE = 1e-3
"""The share of values outside of a percentile range, half of it on each side."""


def covering_range(points: Points, bits: int, outside: float = 0.0) -> tuple[Tensor, Tensor]:
    """Choose for each row the unsigned range that covers zero and all values but a share.

    Args:
        points: R weighted rows.
        bits: Bits of the codes.
        outside: The share of the weight that may lie outside of the range, half of it on each side.

    Returns:
        Scale [R] and zero point [R].
    """
    values, order = points.values.sort(1)
    share = points.weights.gather(1, order).double().cumsum(1)
    # The first value at which the cumulated share reaches half of `outside` has less than that below it.
    edges = share[:, -1:] * torch.tensor([outside / 2, 1 - outside / 2], dtype=share.dtype, device=share.device)
    low, high = values.gather(1, torch.searchsorted(share, edges).clamp(max=values.shape[1] - 1)).unbind(1)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = safe_scale((high - low) / (2**bits - 1))
    return scale, (-low / scale).round()
