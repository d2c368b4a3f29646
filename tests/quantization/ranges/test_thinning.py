"""Thinned points stand for all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d4c.quantization.ranges.search import summarize
from d4c.quantization.ranges.thinning import merge, thin

Make = Callable[[int], Tensor]

MAKES: dict[str, Make] = {
    "gaussian": torch.randn,
    "heavy-tailed": lambda n: torch.distributions.StudentT(2.0).sample((n,)),
    "few values": lambda n: torch.randint(-2, 4, (n,)).float(),
    "all negative": lambda n: -(torch.randn(n) ** 2) - 0.1,
    "constant": lambda n: torch.full((n,), 0.7),
    "sorted": lambda n: torch.arange(n) / n,
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
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


@given(st.integers(20, 3000), st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_tails_of_any_length_are_those_of_sorted_rows(n: int, tail: int, rows: int, seed: int) -> None:
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    points = thin(summarize(x), size=1, tail=tail)
    ranked = x.sort(1).values
    assert torch.equal(points.values[:, :tail], ranked[:, :tail])
    assert torch.equal(points.values[:, -tail:], ranked[:, n - tail :].flip(1))


def test_a_value_that_is_not_a_number_is_never_lost() -> None:
    x = torch.randn(1, 50_000)
    x[0, 31_234] = torch.nan
    assert not bool(thin(summarize(x)).values.isfinite().all())


def test_merged_points_are_those_of_both() -> None:
    first, second = summarize(torch.randn(2, 10)), summarize(torch.randn(2, 20))
    both = merge([first, second])
    assert torch.equal(both.values, torch.cat([first.values, second.values], 1))
    assert both.weights.shape == (2, 30)
