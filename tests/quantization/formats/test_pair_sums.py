"""What fits 16 bits in pairs, against sums that saturate as vpmaddubsw does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from d4c.quantization.formats.pair_sums import (
    LARGEST_SUM,
    always_fit,
    code_limits,
    convolution_orders,
    neighbors,
    rows_that_fit,
)

SaturatingProduct = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]
CORNERS = np.array([[0, 0], [255, 0], [0, 255], [255, 255]])
"""Activations of a pair at which its sum is largest or smallest."""


def test_the_largest_sum_is_that_of_the_processor(saturating_product: SaturatingProduct) -> None:
    """All pairs of weights at once: a pair fits exactly if no activations make its sum saturate."""
    codes = np.arange(-128, 128)
    pairs = np.stack(np.meshgrid(codes, codes), -1).reshape(-1, 2)
    exact = (saturating_product(CORNERS, pairs) == CORNERS @ pairs.T).all(0)
    fits = rows_that_fit(torch.from_numpy(pairs), torch.tensor([[0, 1]])).numpy()
    assert np.array_equal(exact, fits)


@pytest.mark.parametrize("activation", [15, 63, 127, 255])
@pytest.mark.parametrize("weight", [7, 31, 64, 65, 128])
def test_what_always_fits_is_added_without_a_loss(
    weight: int, activation: int, saturating_product: SaturatingProduct
) -> None:
    a, w = np.array([[activation, activation]]), np.array([[-weight, -weight], [min(weight, 127)] * 2])
    exact = bool((saturating_product(a, w) == a @ w.T).all())
    assert always_fit(weight, activation) == exact


@given(
    st.lists(st.floats(-140, 140, width=32), min_size=10, max_size=10),
    st.lists(st.booleans(), min_size=10, max_size=10),
)
def test_codes_within_the_limits_fit_whatever_is_rounded_how(weights: list[float], up: list[bool]) -> None:
    """Also where each weight has two neighbors, as in the filters of a first layer."""
    steps = torch.tensor([weights])
    pairs = neighbors([torch.arange(10), torch.tensor([3, 9, 1, 4, -1, 0, 2, 5])])
    low, high = code_limits(steps, pairs, -128, 127)
    assert bool((low <= 0).all())
    assert bool((high >= 1).all())
    for extreme in (low, high, torch.where(torch.tensor([up]), low, high)):
        assert bool(rows_that_fit(extreme, pairs).all())
    assert bool(rows_that_fit(steps.round().clamp(low, high), pairs).all())


@given(st.lists(st.floats(-127, 127, width=32), min_size=2, max_size=2))
def test_limits_cut_off_as_little_as_can_be(weights: list[float]) -> None:
    """The nearest pair of codes that fits, found among all of them."""
    pair, codes = torch.tensor([weights]), torch.arange(-128, 128)
    low, high = code_limits(pair, torch.tensor([[0, 1]]), -128, 127)
    all_pairs = torch.cartesian_prod(codes, codes)
    all_pairs = all_pairs[rows_that_fit(all_pairs, torch.tensor([[0, 1]]))]
    least = (all_pairs - pair).square().sum(1).min()
    error = (pair.round().clamp(low, high) - pair).square().sum()
    assert float(error) <= float(least) + 1e-3


def test_neighbors_of_several_orders() -> None:
    assert neighbors([torch.arange(5)]).tolist() == [[0, 1], [2, 3]]
    assert neighbors([torch.tensor([0, -1, 2, 3]), torch.tensor([2, 3])]).tolist() == [[2, 3]]
    assert neighbors([]).shape == (0, 2)


def test_filters_are_read_position_after_position() -> None:
    """With an even number of channels both runtimes pair channels of one position."""
    even = neighbors(convolution_orders(4, 1, 2))
    assert even.tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    odd = [order.tolist() for order in convolution_orders(3, 1, 2)]
    assert odd == [[0, 2, 4, 1, 3, 5], [0, 2, 4, -1, 1, 3, 5, -1]]


def test_the_sum_of_two_weights_is_the_limit() -> None:
    assert LARGEST_SUM * 255 < 2**15 <= (LARGEST_SUM + 1) * 255
