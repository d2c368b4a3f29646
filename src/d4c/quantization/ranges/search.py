"""Searches the scale and zero point of a tensor that minimize the mean of |x_q - x|^2.4.

The published search tries 100 widths, i/100 of max - min, with every zero point: 25,600 passes over the data at
8 bits. `search` finds the same optimum by branch and bound, with p = 2.4 and the step s of each width:

1. Bound each width. A value that is r from its nearest step and clipped by a costs a^p >= r^p + (a - s/2)^p. So a
   width costs at least the rounding error of all values, plus the clipping error of a range that is half a step wider
   on both sides, with the zero point for which that is smallest.
2. Bound each zero point of the widths that may still win. The rounding error between the two edges is exact. Clipping
   beyond an edge t costs G(t), the sum of |x - t|^p, which is convex: its tangents are lower bounds.
3. Evaluate the candidates that may still win on all values.

On a CPU each step ends when all remaining bounds are above the best candidate, which proves the optimum. A GPU would
have to be waited for to know that, so there the search takes all widths and the 100 candidates of lowest bound.

This file imports nothing but PyTorch: benchmarks/reference_quantizer loads it without the package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NORM = 2.4
"""The exponent p of the error, as published."""
WIDTHS = 100
"""Widths that are tried, as published."""
ROUNDING = (-1.5703e-3, 0.500420, 1.669662, -2.549577)
"""Coefficients of 1, v, v^2, v^3 with v = u^2: a polynomial just below |u|^2.4 for |u| <= 1/2."""
SLACK = 1 - 1e-5
"""Bounds and errors are sums in float32, so a bound counts as below the best error only beyond this factor."""
CLUSTERS = 64
"""Clusters of values that clipping is bounded with; more of them give tighter bounds and take longer."""
KNOTS = 64
"""Points at which G is tabulated; more of them give tighter bounds and take longer."""
GROUP = {True: 4, False: WIDTHS}
"""How many of the lowest bounds are taken at once: on a CPU (True) repeatedly, elsewhere once, which is all widths."""
# Elements per operation: on a CPU (True) what stays in its cache, elsewhere what keeps a GPU busy.
_PASS = {True: 1 << 18, False: 1 << 24}


@dataclass(frozen=True)
class Points:
    """A weighted sample of each row of a tensor: values [R, n] and their weights [R, n]."""

    values: Tensor
    weights: Tensor

    def __getitem__(self, rows: Tensor) -> Points:
        return Points(self.values[rows], self.weights[rows])


def summarize(x: Tensor) -> Points:
    """The values of rows [R, n] as points of weight 1."""
    return Points(x, x.new_ones(1, 1).expand_as(x))


def safe_scale(scale: Tensor) -> Tensor:
    """A scale of any shape that can be divided by: where it is zero, for a tensor of zeros, it becomes 1."""
    return torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))


def search(points: Points, bits: int) -> tuple[Tensor, Tensor]:
    """Find the unsigned range of least error of each row.

    Widths and all 2^bits zero points are searched. If all rows together lie on one side of zero, the zero point
    is the first or the last code, as published, and only widths are searched.

    Args:
        points: R weighted rows.
        bits: Bits of the codes.

    Returns:
        Scale [R] and zero point [R].
    """
    values, order = points.values.sort(1)
    weights = points.weights.gather(1, order)
    low, high = values[:, 0].amin(), values[:, -1].amax()
    zeros = torch.arange(2**bits, device=values.device, dtype=values.dtype)
    end = torch.where(low >= 0, zeros[0], zeros[-1])
    allowed = ((low < 0) & (high > 0)) | (zeros == end)
    pieces = _pieces(Points(values, weights), WIDTHS * (values.shape[1] + len(zeros)))
    best = [_search_rows(piece, zeros, allowed) for piece in pieces]
    return safe_scale(torch.cat([b.scale for b in best])), torch.cat([b.zero_point for b in best])


def search_symmetric(points: Points, qmin: int, qmax: int) -> Tensor:
    """Find the scale [R] of least error of each row, for signed codes qmin .. qmax with zero point 0.

    50 widths are tried: the largest covers all values, the smallest is a fifth of it.
    """
    widths = torch.linspace(0.2, 1, 50, device=points.values.device, dtype=points.values.dtype)
    best_scales = []
    for piece in _pieces(points, len(widths) * points.values.shape[1]):
        full = safe_scale(torch.maximum(piece.values.amin(1) / qmin, piece.values.amax(1) / qmax))
        scales, zero = full[:, None] * widths, torch.zeros_like(full)[:, None]
        best, all_rows = _Best(full), torch.arange(len(full), device=full.device)
        for rows, columns in _promising(_bound(piece, scales, qmin, qmax), all_rows, best):
            best.offer(rows, piece[rows], scales[rows].gather(1, columns), zero[rows], qmin, qmax)
        best_scales.append(best.scale)
    return torch.cat(best_scales)


def error(points: Points, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Weighted sum of |x_q - x|^2.4 over each row for M candidates, [R, M]; `zero_point` broadcasts to scale [R, M]."""
    x, w = points.values[:, None], points.weights[:, None]
    zero_point = zero_point.expand_as(scale)
    errors = []
    for s, z in zip(_split(scale, x.numel()), _split(zero_point, x.numel()), strict=True):
        s, z = s[..., None], z[..., None]
        codes = (x / s).round_().add_(z).clamp_(qmin, qmax)
        errors.append((codes.sub_(z).mul_(s).sub_(x).abs_().pow_(NORM).mul_(w)).sum(2))
    return torch.cat(errors, 1)


def _may_ask(x: Tensor) -> bool:
    """Whether the host can read a value without waiting for a device."""
    return x.device.type == "cpu"


def _pieces(points: Points, elements: int) -> Iterator[Points]:
    """Some rows of the points at a time, where temporaries have `elements` per row."""
    rows = max(1, 16 * _PASS[_may_ask(points.values)] // elements)
    for values, weights in zip(points.values.split(rows), points.weights.split(rows), strict=True):
        yield Points(values, weights)


def _split(candidates: Tensor, elements: int) -> Sequence[Tensor]:
    """Candidates [R, M] in parts along M, where temporaries have `elements` per candidate."""
    return candidates.split(max(1, _PASS[_may_ask(candidates)] // elements), 1)


class _Best:
    """The candidate of least error so far in each row."""

    def __init__(self, like: Tensor) -> None:
        self.error = torch.full_like(like, torch.inf)
        self.scale, self.zero_point = torch.ones_like(like), torch.zeros_like(like)

    def offer(self, rows: Tensor, points: Points, scale: Tensor, zero: Tensor, qmin: int, qmax: int) -> None:
        """Evaluate candidates [r, M] of some rows, with the points of these rows."""
        least, index = error(points, scale, zero, qmin, qmax).min(1, keepdim=True)
        better = least[:, 0] < self.error[rows]
        candidate = least, scale.gather(1, index), zero.expand_as(scale).gather(1, index)
        for best, new in zip((self.error, self.scale, self.zero_point), candidate, strict=True):
            best[rows] = torch.where(better, new[:, 0], best[rows])


def _promising(bound: Tensor, rows: Tensor, best: _Best) -> Iterator[tuple[Tensor, Tensor]]:
    """Columns of bounds [r, M] that may still beat the best of `rows` [r], the lowest bounds first.

    Between two steps the caller improves `best`.

    Yields:
        Which of the rows [k], and columns of each of them [k, group].
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
    """The best candidate of all widths with those zero points of `zeros` [Z] that are `allowed`, for sorted points."""
    values, levels = points.values, len(zeros) - 1
    span = (values[:, -1].clamp(min=0) - values[:, 0].clamp(max=0)) / levels
    widths = torch.arange(1, WIDTHS + 1, device=values.device, dtype=values.dtype) / WIDTHS
    scales = safe_scale(span)[:, None] * widths
    means = _cluster_means(points)
    above = _Beyond.of(means)
    below = _Beyond.of(Points(-means.values.flip(1), means.weights.flip(1)))

    best, all_rows = _Best(span), torch.arange(len(values), device=values.device)
    bound = _bound(points, scales) + _clipping_bound(scales, levels, above, below)
    for rows, columns in _promising(bound, all_rows, best):
        row_points, scale = points[rows], scales[rows].gather(1, columns)
        tight = _candidate_bound(row_points, scale, zeros, above[rows], below[rows]).masked_fill(~allowed, torch.inf)
        for some, index in _promising(tight.flatten(1), rows, best):
            candidates = scale[some].gather(1, index // len(zeros)), zeros[index % len(zeros)]
            best.offer(rows[some], row_points[some], *candidates, 0, levels)
    return best


def _bound(points: Points, scales: Tensor, qmin: float = -torch.inf, qmax: float = torch.inf) -> Tensor:
    """A lower bound on the error with codes qmin .. qmax and zero point 0, for scales [R, M]."""
    a, b, c, d = ROUNDING
    x, w = points.values[:, None], points.weights[:, None]
    bounds = []
    for s in _split(scales, x.numel()):
        v = x / s[..., None]
        v.sub_(v.round().clamp_(qmin, qmax)).square_()
        near = v.clamp(max=0.25)
        # Beyond half a step v^1.2 is bounded by its tangent, with one factor less.
        far = v.sub_(near).mul_(NORM / 2 * 0.25 ** (NORM / 2 - 1))
        bounds.append((near * d).add_(c).mul_(near).add_(b).mul_(near).add_(a).add_(far).mul_(w).sum(2))
    return torch.cat(bounds, 1).clamp_(min=0) * scales.pow(NORM)


def _clipping_bound(scales: Tensor, levels: int, above: _Beyond, below: _Beyond) -> Tensor:
    """A lower bound on the error of clipping half a step beyond the edges, with the best zero point per scale [R, W].

    The error is convex in the zero point, which is found bit by bit: a falling slope says that it is larger.
    """

    def cost(zero: Tensor) -> Tensor:
        return above((levels - zero + 0.5) * scales) + below((zero + 0.5) * scales)

    zero, bit = torch.zeros_like(scales), (levels + 1) // 2
    while bit:
        zero = torch.where(cost(zero + bit) <= cost(zero + (bit - 1)), zero + bit, zero)
        bit //= 2
    return cost(zero)


def _candidate_bound(points: Points, scales: Tensor, zeros: Tensor, above: _Beyond, below: _Beyond) -> Tensor:
    """A tight lower bound on the error of each scale [R, W] with each zero point [Z]: [R, W, Z]."""
    x, w = points.values[:, None], points.weights[:, None]
    lower, upper = -zeros * scales[..., None], (len(zeros) - 1 - zeros) * scales[..., None]
    step = scales[..., None]
    residual = ((x / step).round_().mul_(step) - x).abs_().pow_(NORM).mul_(w)
    cumulated = F.pad(residual.cumsum(2), (1, 0))
    # Values up to half a step beyond an edge round onto it; their error is counted by the clipping term.
    first = torch.searchsorted(points.values, lower.flatten(1)).view_as(lower)
    last = torch.searchsorted(points.values, upper.flatten(1), right=True).view_as(upper)
    clipped = above(upper.flatten(1)) + below(-lower.flatten(1))
    return cumulated.gather(2, last) - cumulated.gather(2, first) + clipped.view_as(lower)


def _cluster_means(points: Points) -> Points:
    """The means of at most CLUSTERS groups of neighbors among sorted points, of single points at both ends.

    G of the means is a lower bound on G of the points, since |x - t|^p is convex in x (Jensen).
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
    """G(t) = sum of w (x - t)^p over x > t, tabulated at knots with its slope; elsewhere a lower bound on it."""

    knots: Tensor
    level: Tensor
    slope: Tensor

    @staticmethod
    def of(points: Points) -> _Beyond:
        """The table of sorted points, [R, KNOTS]."""
        values, n = points.values, points.values.shape[1]
        # Half of the knots are at quantiles. The others crowd toward the largest value, since quantiles leave the
        # gap below a lone outlier without a knot.
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
        """A lower bound on G(t), [R, m]: the larger of the tangents at the two knots around t."""
        right = torch.searchsorted(self.knots, t).clamp_(max=KNOTS - 1)
        best = torch.zeros_like(t)
        for index in (right, (right - 1).clamp_(min=0)):
            tangent = self.level.gather(1, index) + self.slope.gather(1, index) * (t - self.knots.gather(1, index))
            best = torch.maximum(best, tangent)
        return best
