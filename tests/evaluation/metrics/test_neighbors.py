"""Neighbors: identities, and numbers against literal loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d4c.evaluation.metrics.neighbors import GALLERY, gallery, neighbor_overlap, rank_correlations


def rows(seed: int, count: int = 30) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_model_keeps_its_own_neighbors_however_its_space_is_turned() -> None:
    turned = rows(0) @ torch.linalg.qr(torch.randn(8, 8))[0]
    assert neighbor_overlap(turned, rows(0)) == pytest.approx(100)
    assert rank_correlations(turned, rows(0)) == pytest.approx(1, abs=1e-3)


def test_overlap_and_correlation_are_what_a_loop_computes() -> None:
    ours, theirs = rows(1), rows(2)
    overlap, correlation = neighbor_overlap(ours, theirs), rank_correlations(ours, theirs)
    for i in range(30):
        others = [j for j in range(30) if j != i]
        cosines = [np.array([float(side[i] @ side[j]) for j in others]) for side in (ours, theirs)]
        near = [set(np.argsort(-values)[:10]) for values in cosines]
        assert overlap[i] == pytest.approx(10 * len(near[0] & near[1]))
        ranks = [values.argsort().argsort() for values in cosines]
        assert correlation[i] == pytest.approx(np.asarray(np.corrcoef(np.stack(ranks)))[0, 1])


def test_large_sets_are_thinned_out_evenly() -> None:
    assert gallery(5) == [0, 1, 2, 3, 4]
    assert len(set(gallery(3 * GALLERY))) == GALLERY
    assert gallery(3 * GALLERY)[:3] == [0, 3, 6]
