"""A few weighted points that stand for the millions of values of an activation."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.quantization.ranges.search import Points


def thin(points: Points, size: int = 4096, tail: int = 512, seed: int = 0) -> Points:
    """Fewer points for the same distribution: both tails exactly, and a random sample of the rest, reweighted.

    The tails decide what clipping costs and the sample what rounding costs, so `size` points stand for millions.
    """
    values, weights = points.values, points.weights
    n = values.shape[1]
    if n <= size + 2 * tail:
        return points
    low, high = _tail(values, tail, largest=False), _tail(values, tail, largest=True)
    low_weight, high_weight = weights.gather(1, low), weights.gather(1, high)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(n, (size,), generator=generator).to(values.device)
    # Told by place, not by value: one value may fill a tail and go on behind it.
    inner = torch.ones_like(values, dtype=torch.bool).scatter_(1, torch.cat([low, high], 1), False)
    weight = weights[:, chosen] * inner[:, chosen]
    rest = (weights.sum(1) - low_weight.sum(1) - high_weight.sum(1)).clamp(min=0)
    weight = weight * (rest / weight.sum(1).clamp(min=1e-9))[:, None]
    sample = torch.cat([values.gather(1, low), values[:, chosen], values.gather(1, high)], 1)
    return Points(sample, torch.cat([low_weight, weight, high_weight], 1))


def _tail(values: Tensor, size: int, largest: bool) -> Tensor:
    """Indices [R, size] of the largest or smallest values of each row.

    They all lie in the `size` chunks with the most extreme peaks (and what is left over), so that only the peaks of
    chunks and the values of few chunks are compared: ten times faster than topk over millions.
    """
    rows, n = values.shape
    length = max(1, int((n / size) ** 0.5))
    chunks = values[:, : n - n % length].unflatten(1, (-1, length))
    peaks = chunks.amax(2) if largest else chunks.amin(2)
    first = peaks.topk(size, 1, largest=largest).indices * length
    within = torch.arange(length, device=values.device)
    left_over = torch.arange(n - n % length, n, device=values.device)
    places = torch.cat([(first[..., None] + within).flatten(1), left_over.expand(rows, -1)], 1)
    return places.gather(1, values.gather(1, places).topk(size, 1, largest=largest).indices)


def merge(parts: list[Points]) -> Points:
    """Points of several batches as one."""
    return Points(torch.cat([p.values for p in parts], 1), torch.cat([p.weights for p in parts], 1))
