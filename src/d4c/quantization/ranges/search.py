"""Scale and zero point of a tensor by searching the clipping range that minimizes mean |x_q - x|^2.4.

The published search tries 100 widths, i/100 of max - min, with every zero point: 25,600 passes over the data at
8 bits. `search` finds the same optimum by branch and bound, with p = 2.4 and a step s for each width:

1. Widths. A value r away from its nearest step and clipped by a costs a^p >= r^p + (a - s/2)^p. So a width costs at
   least the rounding error of all values plus the clipping beyond a range that is half a step wider on both sides,
   with the zero point that suits that best.
2. Zero points of the widths that may still win. The rounding error between two edges is counted exactly. Clipping
   beyond an edge t costs G(t), the sum of |x - t|^p, which is convex: tangents bound it from below.
3. The candidates that may still win, each with all values.

On a CPU each step ends when all bounds left are above the best candidate, which proves the optimum. On a GPU, where
asking would wait for the device, it takes all widths and the 100 lowest candidates, where a CPU was seen to need four.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NORM = 2.4
WIDTHS = 100
# Coefficients of 1, v, v^2, v^3 with v = u^2: below u^2.4 wherever |u| <= 1/2, by 1 % of its mean.
ROUNDING = (-1.5703e-3, 0.500420, 1.669662, -2.549577)
# Bounds and errors are sums in float32: a bound this close below the best error is not told from it.
SLACK = 1 - 1e-5
CLUSTERS = 64
KNOTS = 64
# How many of the lowest bounds are taken together: on a CPU again and again; elsewhere once, which is every width.
GROUP = {True: 4, False: WIDTHS}
# Elements of one operation: what stays in a processor's cache, what keeps a GPU busy.
_PASS = {True: 1 << 18, False: 1 << 24}


@dataclass(frozen=True)
class Points:
    """A weighted sample of each row of a tensor: values and weights, both [rows, n]."""

    values: Tensor
    weights: Tensor

    def __getitem__(self, rows: Tensor) -> Points:
        return Points(self.values[rows], self.weights[rows])


def summarize(x: Tensor) -> Points:
    """Rows [R, n] as points of weight 1."""
    return Points(x, x.new_ones(1, 1).expand_as(x))


def safe_scale(scale: Tensor) -> Tensor:
    """A scale that can be divided by: tensors that are all zero get 1."""
    return torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))


def search(points: Points, bits: int) -> tuple[Tensor, Tensor]:
    """Best unsigned range of each row: (scale [R], zero point [R]).

    If all rows together are one-sided, only widths are searched and the zero point lies at the end of the range,
    as published; otherwise widths and all 2^bits zero points.
    """
    values, order = points.values.sort(1)
    weights = points.weights.gather(1, order)
    low, high = values[:, 0].amin(), values[:, -1].amax()
    zeros = torch.arange(2**bits, device=values.device, dtype=values.dtype)
    end = torch.where(low >= 0, zeros[0], zeros[-1])
    allowed = ((low < 0) & (high > 0)) | (zeros == end)
    pieces = _pieces(Points(values, weights), WIDTHS * (values.shape[1] + len(zeros)))
    found = [_search_rows(piece, zeros, allowed) for piece in pieces]
    return safe_scale(torch.cat([f.scale for f in found])), torch.cat([f.zero_point for f in found])


def search_symmetric(points: Points, qmin: int, qmax: int) -> Tensor:
    """Best scale [R] of signed codes qmin .. qmax with zero point 0, over 50 widths.

    The full width reaches whichever side needs the larger scale; the narrowest is a fifth of it.
    """
    widths = torch.linspace(0.2, 1, 50, device=points.values.device, dtype=points.values.dtype)
    found = []
    for piece in _pieces(points, len(widths) * points.values.shape[1]):
        full = safe_scale(torch.maximum(piece.values.amin(1) / qmin, piece.values.amax(1) / qmax))
        scales, zero = full[:, None] * widths, torch.zeros_like(full)[:, None]
        best, every = _Best(full), torch.arange(len(full), device=full.device)
        for rows, columns in _promising(_bound(piece, scales, qmin, qmax), every, best):
            best.offer(rows, piece[rows], scales[rows].gather(1, columns), zero[rows], qmin, qmax)
        found.append(best.scale)
    return torch.cat(found)


def error(points: Points, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Weighted sum of |x_q - x|^2.4 a row for M candidates, [R, M]; scale is [R, M], zero point broadcasts to it."""
    x, w = points.values[:, None], points.weights[:, None]
    zero_point = zero_point.expand_as(scale)
    parts = []
    for s, z in zip(_split(scale, x.numel()), _split(zero_point, x.numel()), strict=True):
        s, z = s[..., None], z[..., None]
        codes = (x / s).round_().add_(z).clamp_(qmin, qmax)
        parts.append((codes.sub_(z).mul_(s).sub_(x).abs_().pow_(NORM).mul_(w)).sum(2))
    return torch.cat(parts, 1)


def _may_ask(x: Tensor) -> bool:
    """Whether the host can look at a value without waiting for a device."""
    return x.device.type == "cpu"


def _pieces(points: Points, elements: int) -> Iterator[Points]:
    """Points some rows at a time, for temporaries of `elements` a row."""
    rows = max(1, 16 * _PASS[_may_ask(points.values)] // elements)
    for values, weights in zip(points.values.split(rows), points.weights.split(rows), strict=True):
        yield Points(values, weights)


def _split(candidates: Tensor, elements: int) -> Sequence[Tensor]:
    """Candidates [R, M] in parts along M, for temporaries of `elements` a candidate."""
    return candidates.split(max(1, _PASS[_may_ask(candidates)] // elements), 1)


class _Best:
    """The candidate of least error in each row, so far."""

    def __init__(self, like: Tensor) -> None:
        self.error = torch.full_like(like, torch.inf)
        self.scale, self.zero_point = torch.ones_like(like), torch.zeros_like(like)

    def offer(self, rows: Tensor, points: Points, scale: Tensor, zero: Tensor, qmin: int, qmax: int) -> None:
        """Evaluate candidates [r, M] of some rows, with the points of these rows."""
        least, index = error(points, scale, zero, qmin, qmax).min(1, keepdim=True)
        better = least[:, 0] < self.error[rows]
        found = least, scale.gather(1, index), zero.expand_as(scale).gather(1, index)
        for kept, new in zip((self.error, self.scale, self.zero_point), found, strict=True):
            kept[rows] = torch.where(better, new[:, 0], kept[rows])


def _promising(bound: Tensor, rows: Tensor, best: _Best) -> Iterator[tuple[Tensor, Tensor]]:
    """Columns of bounds [r, M] that may beat the best of `rows` [r], lowest first, while the best gets better.

    Yields pairs: which of the rows [k], and columns of each [k, group].
    """
    group = GROUP[_may_ask(bound)]
    if not _may_ask(bound):
        yield torch.arange(len(rows), device=rows.device), bound.topk(min(group, bound.shape[1]), 1, largest=False)[1]
        return
    lowest, order = bound.sort(1)
    for start in range(0, bound.shape[1], group):
        left = (lowest[:, start] * SLACK < best.error[rows]).nonzero()[:, 0]
        if not len(left):
            return
        yield left, order[left, start : start + group]


def _search_rows(points: Points, zeros: Tensor, allowed: Tensor) -> _Best:
    """The best of all widths with the allowed ones of `zeros` [Z], for sorted points."""
    values, levels = points.values, len(zeros) - 1
    span = (values[:, -1].clamp(min=0) - values[:, 0].clamp(max=0)) / levels
    widths = torch.arange(1, WIDTHS + 1, device=values.device, dtype=values.dtype) / WIDTHS
    scales = safe_scale(span)[:, None] * widths
    means = _cluster_means(points)
    above = _Beyond.of(means)
    below = _Beyond.of(Points(-means.values.flip(1), means.weights.flip(1)))

    best, every = _Best(span), torch.arange(len(values), device=values.device)
    bound = _bound(points, scales) + _clipping_bound(scales, levels, above, below)
    for rows, columns in _promising(bound, every, best):
        own, scale = points[rows], scales[rows].gather(1, columns)
        inner = _candidate_bound(own, scale, zeros, above[rows], below[rows]).masked_fill(~allowed, torch.inf)
        for some, chosen in _promising(inner.flatten(1), rows, best):
            candidates = scale[some].gather(1, chosen // len(zeros)), zeros[chosen % len(zeros)]
            best.offer(rows[some], own[some], *candidates, 0, levels)
    return best


def _bound(points: Points, scales: Tensor, qmin: float = -torch.inf, qmax: float = torch.inf) -> Tensor:
    """At most the error with codes qmin .. qmax and zero point 0, for scales [R, M]."""
    a, b, c, d = ROUNDING
    x, w = points.values[:, None], points.weights[:, None]
    parts = []
    for s in _split(scales, x.numel()):
        v = x / s[..., None]
        v.sub_(v.round().clamp_(qmin, qmax)).square_()
        near = v.clamp(max=0.25)
        # Beyond half a step the tangent of v^1.2, with one factor less.
        far = v.sub_(near).mul_(NORM / 2 * 0.25 ** (NORM / 2 - 1))
        parts.append((near * d).add_(c).mul_(near).add_(b).mul_(near).add_(a).add_(far).mul_(w).sum(2))
    return torch.cat(parts, 1).clamp_(min=0) * scales.pow(NORM)


def _clipping_bound(scales: Tensor, levels: int, above: _Beyond, below: _Beyond) -> Tensor:
    """At most the clipping error beyond the edges and half a step, with the best zero point of each scale [R, W].

    The error is convex in the zero point, which is found bit by bit: the slope tells whether it is larger.
    """

    def cost(zero: Tensor) -> Tensor:
        return above((levels - zero + 0.5) * scales) + below((zero + 0.5) * scales)

    zero, bit = torch.zeros_like(scales), (levels + 1) // 2
    while bit:
        zero = torch.where(cost(zero + bit) <= cost(zero + (bit - 1)), zero + bit, zero)
        bit //= 2
    return cost(zero)


def _candidate_bound(points: Points, scales: Tensor, zeros: Tensor, above: _Beyond, below: _Beyond) -> Tensor:
    """At most the error of each scale [R, W] with each zero point [Z], tight: [R, W, Z]."""
    x, w = points.values[:, None], points.weights[:, None]
    lower, upper = -zeros * scales[..., None], (len(zeros) - 1 - zeros) * scales[..., None]
    step = scales[..., None]
    residual = ((x / step).round_().mul_(step) - x).abs_().pow_(NORM).mul_(w)
    total = F.pad(residual.cumsum(2), (1, 0))
    # Values up to half a step beyond an edge round onto it; their error is counted by the clipping term.
    first = torch.searchsorted(points.values, lower.flatten(1)).view_as(lower)
    last = torch.searchsorted(points.values, upper.flatten(1), right=True).view_as(upper)
    clipped = above(upper.flatten(1)) + below(-lower.flatten(1))
    return total.gather(2, last) - total.gather(2, first) + clipped.view_as(lower)


def _cluster_means(points: Points) -> Points:
    """Sorted points joined to at most CLUSTERS of neighbors, single at both ends.

    Their G is never larger, since |x - t|^p is convex in x (Jensen), and hardly smaller.
    """
    values, n = points.values, points.values.shape[1]
    rank = torch.arange(CLUSTERS // 2 + 1, device=values.device, dtype=torch.float64)
    half = (n / 2 * (2 * rank / CLUSTERS) ** 3).maximum(rank).clamp(max=n / 2).round()
    edge = torch.cat([half, n - half[:-1].flip(0)]).long()
    # Differences of sums need double precision.
    sums = (points.weights.double(), points.weights.double() * values)
    weight, moment = (F.pad(t.cumsum(1), (1, 0))[:, edge].diff(dim=1) for t in sums)
    mean = torch.where(weight > 0, moment / weight, values[:, edge[:-1].clamp(max=n - 1)])
    return Points(mean.to(values), weight.to(values))


@dataclass(frozen=True)
class _Beyond:
    """G(t) = sum of w (x - t)^p over x > t, tabulated with its slope and bounded from below elsewhere."""

    knots: Tensor
    level: Tensor
    slope: Tensor

    @staticmethod
    def of(points: Points) -> _Beyond:
        """The table of sorted points, [R, KNOTS]."""
        values, n = points.values, points.values.shape[1]
        # Half of the knots at quantiles, half crowding toward the largest value: a lone outlier leaves the
        # quantiles no knot in the gap that it opens.
        unit = torch.linspace(0, 1, KNOTS // 2, device=values.device, dtype=values.dtype)
        quantiles = values[:, ((1 - unit**2.5) * (n - 1)).round().long()]
        last = values[:, -1:]
        knots = torch.cat([quantiles, last - (last - values[:, :1]) * unit**3], 1).sort(1).values
        excess = (values[:, None] - knots[:, :, None]).clamp_(min=0)
        power = excess.pow(NORM - 1).mul_(points.weights[:, None])
        return _Beyond(knots, (power * excess).sum(2), -NORM * power.sum(2))

    def __getitem__(self, rows: Tensor) -> _Beyond:
        return _Beyond(self.knots[rows], self.level[rows], self.slope[rows])

    def __call__(self, t: Tensor) -> Tensor:
        """A value not above G(t), [R, m]: the larger of the tangents at the two knots around t."""
        right = torch.searchsorted(self.knots, t).clamp_(max=KNOTS - 1)
        best = torch.zeros_like(t)
        for index in (right, (right - 1).clamp_(min=0)):
            tangent = self.level.gather(1, index) + self.slope.gather(1, index) * (t - self.knots.gather(1, index))
            best = torch.maximum(best, tangent)
        return best
