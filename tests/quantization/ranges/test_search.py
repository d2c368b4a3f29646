"""The fast range search finds what the published search finds, written out here as loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d4c.models.clip import CLIP
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges import search as ranges
from d4c.quantization.ranges.search import NORM, ROUNDING, Points, search, search_symmetric, summarize
from d4c.quantization.ranges.thinning import merge, thin

Make = Callable[[int], Tensor]


def outlier(n: int) -> Tensor:
    x = torch.randn(n)
    x[n // 2] = 100.0
    return x


MIXED: dict[str, Make] = {
    "gaussian": torch.randn,
    "heavy-tailed": lambda n: torch.distributions.StudentT(2.0).sample((n,)),
    "one huge outlier": outlier,
    "after GELU": lambda n: torch.nn.functional.gelu(2 * torch.randn(n)),
    "two far clusters": lambda n: torch.cat([torch.randn(n // 2) - 30, torch.randn(n - n // 2) + 5]),
    "few values": lambda n: torch.randint(-2, 4, (n,)).float(),
}
ONE_SIDED: dict[str, Make] = {
    "all positive": lambda n: torch.rand(n) + 0.2,
    "all negative": lambda n: -(torch.randn(n) ** 2) - 0.1,
    "constant": lambda n: torch.full((n,), 0.7),
    "constant negative": lambda n: torch.full((n,), -3.0),
}


def signed(bits: int) -> tuple[int, int]:
    """The codes of symmetric weights."""
    args = QuantArgs(bits, True, "channel")
    return args.qmin, args.qmax


def loss_of(x: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    codes = (torch.round(x / scale[..., None]) + zero[..., None]).clamp(0, levels)
    return ((codes - zero[..., None]) * scale[..., None] - x).abs().double().pow(NORM).sum(-1)


def literal_search(x: Tensor, bits: int) -> float:
    """The smallest loss over 100 widths and, for x on both sides of zero, every zero point."""
    levels = 2**bits - 1
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    best = float("inf")
    for i in range(1, 101):
        scale = torch.tensor((high - low) * i / 100 / levels)
        zeros = torch.arange(levels + 1.0) if low < 0 < high else torch.tensor([0.0 if low == 0 else float(levels)])
        best = min(best, float(loss_of(x, scale.expand(len(zeros)), zeros, levels).min()))
    return best


@pytest.mark.parametrize("bits", range(2, 7))
@pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)
def test_search_is_as_good_as_every_width_with_every_zero_point(make: Make, bits: int) -> None:
    x = make(301)
    scale, zero = search(summarize(x[None]), bits)
    loss = float(loss_of(x[None], scale, zero, 2**bits - 1))
    assert loss == pytest.approx(literal_search(x, bits), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)
def test_search_is_as_good_at_eight_bits(make: Make) -> None:
    x = make(301)
    scale, zero = search(summarize(x[None]), 8)
    # Losses of 8 bits are tiny sums of float32 errors.
    assert float(loss_of(x[None], scale, zero, 255)) == pytest.approx(literal_search(x, 8), rel=1e-4)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("make", ONE_SIDED.values(), ids=ONE_SIDED)
def test_one_sided_search_is_as_good_as_every_width_from_zero(make: Make, bits: int) -> None:
    x = make(301)
    scale, zero = search(summarize(x[None]), bits)
    assert float(zero) == (0 if bool((x > 0).all()) else 2**bits - 1)
    loss = float(loss_of(x[None], scale, zero, 2**bits - 1))
    assert loss == pytest.approx(literal_search(x, bits), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_all_zeros_get_a_range_that_keeps_them_zero(bits: int) -> None:
    scale, zero = search(summarize(torch.zeros(3, 10)), bits)
    assert bool((scale > 0).all())
    assert float(loss_of(torch.zeros(3, 10), scale, zero, 2**bits - 1).sum()) == 0
    assert bool((search_symmetric(summarize(torch.zeros(3, 10)), *signed(bits)) > 0).all())


@given(st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_rows_together_are_rows_alone(bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, 60, generator=generator) * torch.logspace(-3, 3, 5)[:, None]
    together = search(summarize(rows), bits)
    alone = [search(summarize(row[None]), bits) for row in rows]
    assert torch.equal(together[0], torch.cat([scale for scale, _ in alone]))
    assert torch.equal(together[1], torch.cat([zero for _, zero in alone]))


@given(st.floats(0.01, 100), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_point_of_weight_two_is_a_point_twice(weight: float, seed: int) -> None:
    x = torch.randn(1, 50, generator=torch.Generator().manual_seed(seed))
    doubled = Points(torch.cat([x, x], 1), torch.full((1, 100), weight))
    heavy = Points(x, torch.full((1, 50), 2 * weight))
    (scale, zero), (scale_2, zero_2) = search(doubled, 4), search(heavy, 4)
    first, second = loss_of(x, scale, zero, 15), loss_of(x, scale_2, zero_2, 15)
    assert float(first) == pytest.approx(float(second), rel=1e-5)


@pytest.mark.parametrize(("qmin", "qmax"), [*map(signed, range(2, 9)), (-63, 63)])
@pytest.mark.parametrize("make", [*MIXED.values(), *ONE_SIDED.values()], ids=[*MIXED, *ONE_SIDED])
def test_symmetric_search_is_as_good_as_a_loop_over_scales(make: Make, qmin: int, qmax: int) -> None:
    x = make(200)
    full = max(float(x.min()) / qmin, float(x.max()) / qmax)

    def loss(scale: float) -> float:
        return float((((x / scale).round().clamp(qmin, qmax) * scale - x).abs().double() ** NORM).sum())

    best = min(loss(full * (0.2 + 0.8 * i / 49)) for i in range(50))
    assert loss(float(search_symmetric(summarize(x[None]), qmin, qmax))) == pytest.approx(best, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)
def test_a_thinned_tensor_gets_nearly_the_best_range(make: Make, bits: int) -> None:
    """Batches that are thinned, merged and thinned again: within 5 % of the range from all values."""
    x = make(40_000)
    parts = [thin(summarize(part[None]), seed=i) for i, part in enumerate(x.split(10_000))]
    loss = loss_of(x[None], *search(thin(merge(parts)), bits), 2**bits - 1)
    best = loss_of(x[None], *search(summarize(x[None]), bits), 2**bits - 1)
    assert float(loss) <= 1.05 * float(best) + 1e-6


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_rows_of_a_real_layer_get_the_best_range(demo_vit: CLIP, bits: int) -> None:
    rows = demo_vit.get_parameter("text.blocks.1.mlp.fc1.weight").detach()[:4]
    scale, zero = search(summarize(rows), bits)
    for x, loss in zip(rows, loss_of(rows, scale, zero, 2**bits - 1), strict=True):
        assert float(loss) == pytest.approx(literal_search(x, bits), rel=1e-4)


def test_a_one_sided_row_among_others_gets_every_zero_point() -> None:
    """Zero points are fixed only if all rows together are one-sided."""
    row = torch.rand(200) + 5
    scale, zero = search(summarize(torch.stack([row, torch.randn(200)])), 3)
    every = literal_search(torch.cat([row, torch.tensor([-1e-30])]), 3)
    assert float(loss_of(row, scale[:1], zero[:1], 7)) == pytest.approx(every, rel=1e-6)


@given(st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_weights_multiply_the_loss_of_a_value(bits: int, seed: int) -> None:
    """Whole weights, zero among them, are as many copies of a value."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, generator=generator).clamp(-3, 4)
    x[0] = -3.0  # the range of both is that of all values, whatever their weights
    x[1] = 4.0
    weights = torch.randint(0, 4, (40,), generator=generator)
    weights[:2] = 1
    scale, zero = search(Points(x[None], weights[None].float()), bits)
    copies = x.repeat_interleave(weights)
    loss = float(loss_of(copies[None], scale, zero, 2**bits - 1))
    assert loss == pytest.approx(literal_search(copies, bits), rel=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("make", [*MIXED.values(), *ONE_SIDED.values()], ids=[*MIXED, *ONE_SIDED])
def test_a_device_that_is_never_asked_gives_the_same(make: Make, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = summarize(torch.stack([make(150), make(150)]))
    asked = [*search(points, bits), search_symmetric(points, *signed(bits))]
    monkeypatch.setattr(ranges, "_may_ask", lambda _: False)
    blind = [*search(points, bits), search_symmetric(points, *signed(bits))]
    assert all(torch.equal(a, b) for a, b in zip(asked, blind, strict=True))


def test_the_polynomial_stays_just_below_the_rounding_error() -> None:
    u = torch.linspace(-0.5, 0.5, 10_001, dtype=torch.float64)
    exact, bound = u.abs() ** NORM, torch.stack([c * u ** (2 * i) for i, c in enumerate(ROUNDING)]).sum(0)
    assert bool((bound <= exact).all())
    assert float(bound.mean()) > 0.99 * float(exact.mean())


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)
def test_no_candidate_is_better_than_its_bounds(make: Make, bits: int) -> None:
    """What branch and bound rests on, for every width with every zero point."""
    points = Points(make(120)[None].sort().values, torch.rand(1, 120))
    levels, zeros = 2**bits - 1, torch.arange(2.0**bits)
    scales = (points.values.amax() - points.values.amin()) / levels * torch.arange(1, 101)[None] / 100
    means = ranges._cluster_means(points)
    above = ranges._Beyond.of(means)
    below = ranges._Beyond.of(Points(-means.values.flip(1), means.weights.flip(1)))
    wide = ranges._bound(points, scales) + ranges._clipping_bound(scales, levels, above, below)
    tight = ranges._candidate_bound(points, scales, zeros, above, below)[0]
    exact = torch.stack([ranges.error(points, scales, zero.view(1, 1), 0, levels)[0] for zero in zeros], 1)
    assert bool((tight * ranges.SLACK <= exact).all())
    assert bool((wide[0] * ranges.SLACK <= exact.amin(1)).all())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("make", [*MIXED.values(), *ONE_SIDED.values()], ids=[*MIXED, *ONE_SIDED])
def test_no_symmetric_scale_is_better_than_its_bound(make: Make, bits: int) -> None:
    points = summarize(make(120)[None])
    scales = points.values.abs().amax() * torch.linspace(0.01, 1, 50)[None] / 2 ** (bits - 1)
    codes = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    exact = ranges.error(points, scales, torch.zeros(1, 1), *codes)
    assert bool((ranges._bound(points, scales, *codes) * ranges.SLACK <= exact).all())
