"""Intervals against their defining equation, against each other, and against known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d4c.evaluation.metrics.intervals import Z95, bootstrap, mean_of, wilson

counts = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_wilson_ends_are_the_roots_of_the_score_equation(case: tuple[int, int]) -> None:
    hits, count = case
    interval = wilson(hits, count)
    for end in (interval.low / 100, interval.high / 100):
        assert (hits / count - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / count, rel=1e-6, abs=1e-12)


@given(counts)
def test_wilson_mirrors_when_hits_and_misses_swap(case: tuple[int, int]) -> None:
    hits, count = case
    one, other = wilson(hits, count), wilson(count - hits, count)
    assert (one.low, one.value, one.high) == pytest.approx((100 - other.high, 100 - other.value, 100 - other.low))


@given(counts)
def test_wilson_stays_within_bounds_and_is_never_empty(case: tuple[int, int]) -> None:
    interval = wilson(*case)
    assert 0 <= interval.low <= interval.value <= interval.high <= 100
    assert interval.low < interval.high


def test_the_bootstrap_of_a_proportion_is_about_that_of_wilson() -> None:
    hits = np.arange(400) < 100
    sampled, solved = bootstrap({"a": mean_of(100.0 * hits)}, 400)["a"], wilson(100, 400)
    assert sampled.value == solved.value
    assert (sampled.low, sampled.high) == pytest.approx((solved.low, solved.high), abs=0.6)


def test_the_bootstrap_covers_the_true_mean_about_95_times_in_100() -> None:
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        interval = bootstrap({"a": mean_of(random.normal(size=60))}, 60)["a"]
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 200 <= 0.98


def test_the_same_images_are_drawn_for_every_figure_and_in_every_call() -> None:
    values = np.random.default_rng(0).normal(size=50)
    once = bootstrap({"a": mean_of(values), "b": mean_of(values)}, 50)
    assert once["a"] == once["b"] == bootstrap({"a": mean_of(values)}, 50)["a"]


def test_trials_of_one_image_count_together() -> None:
    ratio = bootstrap({"a": mean_of([3.0, 0.0], sizes=[3, 1])}, 2)["a"]
    assert (ratio.value, ratio.low, ratio.high) == (0.75, 0.0, 1.0)
