"""Thinning: a few weighted points stand for the millions of values of an activation."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.quantization.ranges.search import Points


def thin(points: Points, size: int = 4096, tail: int = 512, seed: int = 0) -> Points:
    """Reduce each row to both of its tails and a random sample of the rest, reweighted to the same total weight.

    The tails decide what clipping costs, the sample what rounding costs.

    Args:
        points: R weighted rows of n values.
        size: Points that are sampled from what is not in a tail.
        tail: Points of each tail, which are kept as they are.
        seed: Seed of the sample.

    Returns:
        Points [R, size + 2 tail], or the same points where there are no more than that.
    """
    values, weights = points.values, points.weights
    n = values.shape[1]
    if n <= size + 2 * tail:
        return points
    low, high = _tail(values, tail, largest=False), _tail(values, tail, largest=True)
    low_weight, high_weight = weights.gather(1, low), weights.gather(1, high)
    generator = torch.Generator().manual_seed(seed)
    sampled = torch.randint(n, (size,), generator=generator).to(values.device)
    # Tails are excluded by index and not by value, since a value that fills a tail may also occur outside of it.
    inner = torch.ones_like(values, dtype=torch.bool).scatter_(1, torch.cat([low, high], 1), False)
    weight = weights[:, sampled] * inner[:, sampled]
    rest = (weights.sum(1) - low_weight.sum(1) - high_weight.sum(1)).clamp(min=0)
    weight = weight * (rest / weight.sum(1).clamp(min=1e-9))[:, None]
    sample = torch.cat([values.gather(1, low), values[:, sampled], values.gather(1, high)], 1)
    return Points(sample, torch.cat([low_weight, weight, high_weight], 1))


def _tail(values: Tensor, size: int, largest: bool) -> Tensor:
    """Indices [R, size] of the largest or smallest values of each row.

    They all lie in the `size` chunks with the most extreme peaks, or in what is left over after the last chunk. So
    topk compares only the peaks of all chunks and the values of a few, which is faster than comparing all values.
    """
    rows, n = values.shape
    length = max(1, int((n / size) ** 0.5))
    chunks = values[:, : n - n % length].unflatten(1, (-1, length))
    peaks = chunks.amax(2) if largest else chunks.amin(2)
    first = peaks.topk(size, 1, largest=largest).indices * length
    within = torch.arange(length, device=values.device)
    left_over = torch.arange(n - n % length, n, device=values.device)
    candidates = torch.cat([(first[..., None] + within).flatten(1), left_over.expand(rows, -1)], 1)
    return candidates.gather(1, values.gather(1, candidates).topk(size, 1, largest=largest).indices)


def merge(parts: list[Points]) -> Points:
    """The points of several batches, [R, n] each, as one."""
    return Points(torch.cat([p.values for p in parts], 1), torch.cat([p.weights for p in parts], 1))
