"""Widens the range of weights just as far as pairs of products need to fit 16 bits (see `formats.pair_sums`)."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.quantization.formats.pair_sums import LARGEST_SUM, code_limits, rows_that_fit
from d4c.quantization.ranges.search import NORM

CANDIDATES = 12
"""Scales that are tried, from that of least error to the smallest with which all pairs fit."""


def fitting_scale(rows: Tensor, scale: Tensor, pairs: Tensor, qmin: int, qmax: int) -> Tensor:
    """Find the scale of least error of each row where codes stay within `code_limits`.

    With a larger scale fewer pairs are beyond their limits, and all weights are rounded more coarsely.

    Args:
        rows: Weights [R, K].
        scale: Scale [R] of least error without such limits.
        pairs: Indices [P, 2] below K.
        qmin: Smallest code.
        qmax: Largest code.

    Returns:
        Scale [R], the given one where all pairs fit with it.
    """
    members = rows[:, pairs]
    sums = torch.maximum(members.clamp(min=0).sum(2), -members.clamp(max=0).sum(2))
    nearest = (rows / scale[:, None]).round_().clamp_(qmin, qmax)
    enough = torch.where(rows_that_fit(nearest, pairs), scale, torch.maximum(sums.amax(1) / LARGEST_SUM, scale))
    best, least = scale, torch.full_like(scale, torch.inf)
    for share in torch.linspace(0, 1, CANDIDATES).tolist():
        candidate = torch.lerp(scale, enough, share)[:, None]
        low, high = code_limits(rows / candidate, pairs, qmin, qmax)
        codes = (rows / candidate).round_().clamp_(low, high)
        error = (codes * candidate - rows).abs_().pow_(NORM).sum(1)
        best = torch.where(error < least, candidate[:, 0], best)
        least = torch.minimum(error, least)
    return best
