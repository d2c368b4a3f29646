"""Ranges from the ends of a distribution: its extremes, or its percentiles."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.quantization.ranges.search import Points, safe_scale

# The share of values beyond a percentile range, half of it on each side.
OUTSIDE = 1e-3


def between(points: Points, bits: int, outside: float = 0.0) -> tuple[Tensor, Tensor]:
    """Unsigned range of each row over zero and all but the share `outside` of its values: (scale [R], zero point [R]).

    Half of what may lie beyond it does so on each side.
    """
    values, order = points.values.sort(1)
    share = points.weights.gather(1, order).double().cumsum(1)
    # Reaching half of the share leaves less than that below: the value that does so is the first inside.
    edges = share[:, -1:] * torch.tensor([outside / 2, 1 - outside / 2], dtype=share.dtype, device=share.device)
    low, high = values.gather(1, torch.searchsorted(share, edges).clamp(max=values.shape[1] - 1)).unbind(1)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = safe_scale((high - low) / (2**bits - 1))
    return scale, (-low / scale).round()
