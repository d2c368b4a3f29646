"""The fast range search finds what the published search finds, written out here as loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d4c.quantization.ranges import NORM, Points, merge, search, search_symmetric, summarize, thin

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
    found = float(loss_of(x[None], scale, zero, 2**bits - 1))
    assert found == pytest.approx(literal_search(x, bits), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("make", [MIXED["gaussian"], MIXED["one huge outlier"]], ids=["gaussian", "outlier"])
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
    found = float(loss_of(x[None], scale, zero, 2**bits - 1))
    assert found == pytest.approx(literal_search(x, bits), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_all_zeros_get_a_range_that_keeps_them_zero(bits: int) -> None:
    scale, zero = search(summarize(torch.zeros(3, 10)), bits)
    assert bool((scale > 0).all())
    assert float(loss_of(torch.zeros(3, 10), scale, zero, 2**bits - 1).sum()) == 0
    assert bool((search_symmetric(summarize(torch.zeros(3, 10)), bits) > 0).all())


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


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("make", [*MIXED.values(), *ONE_SIDED.values()], ids=[*MIXED, *ONE_SIDED])
def test_symmetric_search_is_as_good_as_a_loop_over_scales(make: Make, bits: int) -> None:
    x = make(200)
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    full = max(float(x.min()) / qmin, float(x.max()) / qmax)

    def loss(scale: float) -> float:
        return float((((x / scale).round().clamp(qmin, qmax) * scale - x).abs().double() ** NORM).sum())

    best = min(loss(full * (0.2 + 0.8 * i / 49)) for i in range(50))
    assert loss(float(search_symmetric(summarize(x[None]), bits))) == pytest.approx(best, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("make", [*MIXED.values(), *ONE_SIDED.values()], ids=[*MIXED, *ONE_SIDED])
def test_thinning_keeps_both_tails_and_the_weight(make: Make) -> None:
    x = make(9000)
    points = thin(summarize(x[None]), 1000, 100)
    assert points.values.shape == (1, 1200)
    ranked = x.sort().values
    assert torch.equal(points.values[0, :100].sort().values, ranked[:100])
    assert torch.equal(points.values[0, -100:].sort().values, ranked[-100:])
    assert bool((points.weights[0, :100] == 1).all())
    assert bool((points.weights[0, -100:] == 1).all())
    assert float(points.weights.sum()) == pytest.approx(9000, rel=1e-4)


def test_thinning_keeps_the_share_of_a_value_that_fills_a_tail() -> None:
    """Half of the values are the smallest: they must not lose their weight to the others."""
    x = torch.where(torch.rand(20_000) < 0.5, torch.full((20_000,), -0.17), torch.randn(20_000).abs())
    points = thin(summarize(x[None]))
    share = float(points.weights[points.values == x.min()].sum()) / 20_000
    assert share == pytest.approx(0.5, abs=0.05)


def test_what_is_short_is_not_thinned() -> None:
    points = summarize(torch.randn(2, 300))
    assert thin(points, 200, 50) is points


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)
def test_a_thinned_tensor_gets_nearly_the_best_range(make: Make, bits: int) -> None:
    """Batches that are thinned, merged and thinned again: within 5 % of the range from all values."""
    x = make(40_000)
    parts = [thin(summarize(part[None]), seed=i) for i, part in enumerate(x.split(10_000))]
    found = loss_of(x[None], *search(thin(merge(parts)), bits), 2**bits - 1)
    best = loss_of(x[None], *search(summarize(x[None]), bits), 2**bits - 1)
    assert float(found) <= 1.05 * float(best) + 1e-6
