"""Figures of classification against literal loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d4c.evaluation.metrics.accuracy import (
    BINS,
    calibration_error,
    classification_figures,
    label_ranks,
    mean_average_precision,
    mean_recall,
    tag_figures,
)

seeds = st.integers(0, 2**31)


# Few distinct values, so that ties are common.
@given(st.integers(1, 6).flatmap(lambda c: st.lists(st.lists(st.integers(-2, 2), min_size=c, max_size=c), min_size=1)))
def test_ranks_are_positions_in_a_stable_sort(rows: list[list[int]]) -> None:
    scores = torch.tensor(rows, dtype=torch.float32)
    for label in range(scores.shape[1]):
        expected = [sorted(range(len(row)), key=[-score for score in row].__getitem__).index(label) for row in rows]
        assert label_ranks(scores, torch.full((len(rows),), label)).tolist() == expected


@given(seeds)
def test_mean_recall_is_the_mean_of_what_a_loop_over_classes_counts(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, hits = random.integers(5, size=12), random.random(12) < 0.5
    by_class = [hits[labels == label].mean() for label in range(5) if (labels == label).any()]
    assert mean_recall(hits, labels)(np.ones((1, 12)))[0] == pytest.approx(100 * np.mean(by_class))


def test_of_classes_of_one_image_mean_recall_is_as_uncertain_as_top_1() -> None:
    scores = torch.rand(200, 200, generator=torch.Generator().manual_seed(0))
    scores += torch.diag(torch.arange(200) % 2)
    figures = classification_figures(scores, torch.arange(200), 1.0)
    recall, top1 = figures["mean_recall"], figures["top1"]
    assert 20 < recall.value < 80
    assert (recall.low, recall.value, recall.high) == pytest.approx((top1.low, top1.value, top1.high), abs=1.5)


@given(seeds)
def test_calibration_error_is_what_a_loop_over_bins_adds_up(seed: int) -> None:
    random = np.random.default_rng(seed)
    hits, confidence = random.random(40) < 0.5, random.random(40)
    total = 0.0
    for k in range(BINS):
        inside = (confidence >= k / BINS) & (confidence < (k + 1) / BINS)
        if inside.any():
            total += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    assert calibration_error(hits, confidence)(np.ones((1, 40)))[0] == pytest.approx(100 * total)


@given(seeds)
def test_average_precision_is_the_mean_precision_at_the_images_of_a_class(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, tags = random.random((15, 3)), random.random((15, 3)) < 0.4
    precisions = []
    for k in range(3):
        order = np.argsort(-scores[:, k])
        true = tags[order, k]
        at = [true[: i + 1].mean() for i in range(15) if true[i]]
        precisions.append(np.mean(at) if at else 0.0)
    statistic = mean_average_precision(scores, tags)
    assert statistic(np.ones((1, 15)))[0] == pytest.approx(100 * np.mean(precisions))
    interval = tag_figures(torch.from_numpy(scores), tags)["mean_average_precision"]
    assert interval.low <= interval.value <= interval.high


def test_a_model_that_is_sure_and_right_has_no_error() -> None:
    figures = classification_figures(torch.eye(4), torch.arange(4), logit_scale=100.0)
    assert {name: round(figure.value, 6) for name, figure in figures.items()} == {
        "top1": 100,
        "top5": 100,
        "mean_recall": 100,
        "calibration_error": 0,
    }
