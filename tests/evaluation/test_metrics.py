"""Intervals against their defining equation, ranks against a loop, records against JSON."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d4c import DataError
from d4c.evaluation.metrics import Z95, Fidelity, Interval, Metrics, label_ranks, wilson

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


# Few distinct values, so that ties are common.
@given(st.integers(1, 6).flatmap(lambda c: st.lists(st.lists(st.integers(-2, 2), min_size=c, max_size=c), min_size=1)))
def test_ranks_are_positions_in_a_stable_sort(rows: list[list[int]]) -> None:
    scores = torch.tensor(rows, dtype=torch.float32)
    for label in range(scores.shape[1]):
        expected = [sorted(range(len(row)), key=[-score for score in row].__getitem__).index(label) for row in rows]
        assert label_ranks(scores, torch.full((len(rows),), label)).tolist() == expected


@pytest.mark.parametrize("distance", [None, Fidelity(0.9, 0.8, 0.95, Interval(50.0, 40.0, 60.0), 0.01)])
def test_metrics_survive_json(distance: Fidelity | None) -> None:
    metrics = Metrics("demo", 496, wilson(3, 496), wilson(9, 496), distance, 1.5, ("one is broken.",))
    assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict()))) == metrics


@pytest.mark.parametrize("damage", [{"top1": None}, {"fidelity": 3}, {"extra": 1}, {"top5": {"value": 1.0}}])
def test_other_shapes_of_metrics_are_refused(damage: dict[str, object]) -> None:
    good = Metrics("demo", 496, wilson(3, 496), wilson(9, 496), None, 1.5).to_dict()
    with pytest.raises(DataError, match="evaluate the model again"):
        Metrics.from_dict(good | damage)
