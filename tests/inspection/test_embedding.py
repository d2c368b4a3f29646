"""Likeness of sets in cases whose answer is known, and the map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import DataError
from d4c.inspection.embedding import likeness, principal_map


def cluster(n: int, axis: int, noise: float = 0.1, seed: int = 0) -> Tensor:
    """Unit vectors around an axis of 16 dimensions."""
    drawn = noise * torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(torch.eye(16)[axis] + drawn, dim=-1)


def test_distant_sets_are_always_distinguished() -> None:
    measured = likeness(cluster(10, 0), cluster(10, 1))
    assert measured.nearest_neighbor == 1
    assert measured.centroid_cosine < 0.2


def test_draws_from_one_distribution_are_not_distinguished() -> None:
    measured = likeness(cluster(200, 0, 1.0, seed=1), cluster(200, 0, 1.0, seed=2))
    assert measured.nearest_neighbor == pytest.approx(0.5, abs=0.1)  # standard error 0.025 to 0.035
    assert measured.centroid_cosine > 0.8


def test_twins_are_always_mistaken_for_the_other_set() -> None:
    rows = cluster(10, 0, 1.0)
    assert likeness(rows, rows).nearest_neighbor == 0
    assert likeness(rows, rows).centroid_cosine == pytest.approx(1)


def test_accuracy_is_that_of_a_loop_and_symmetric() -> None:
    ours, other = cluster(7, 0, 0.8, seed=3), cluster(11, 1, 0.8, seed=4)
    rows = [(row, True) for row in ours] + [(row, False) for row in other]
    right: dict[bool, list[float]] = {True: [], False: []}
    for i, (row, label) in enumerate(rows):
        nearest = max((j for j in range(len(rows)) if j != i), key=lambda j: float(row @ rows[j][0]))
        right[label].append(rows[nearest][1] == label)
    expected = sum(sum(part) / len(part) for part in right.values()) / 2
    assert likeness(ours, other).nearest_neighbor == pytest.approx(expected)
    assert likeness(other, ours) == likeness(ours, other)


def test_single_images_and_other_widths_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2 images"):
        likeness(cluster(1, 0), cluster(5, 0))
    with pytest.raises(DataError, match="one width"):
        likeness(torch.ones(3, 4), torch.ones(3, 5))


def test_the_map_keeps_sets_in_order_and_clusters_apart() -> None:
    points, share = principal_map({"a": cluster(9, 0), "b": cluster(8, 1)})
    assert {name: len(part) for name, part in points.items()} == {"a": 9, "b": 8}
    a, b = (torch.tensor(points[name]) for name in "ab")
    distance = torch.cdist(torch.cat([a, b]), torch.cat([a, b])).fill_diagonal_(torch.inf).argmin(1)
    assert bool(((distance < 9) == (torch.arange(17) < 9)).all())
    assert 0.5 < share <= 1


def test_points_of_a_plane_keep_their_distances_on_the_map() -> None:
    plane = torch.randn(12, 2).double() @ torch.linalg.qr(torch.randn(16, 16).double()).Q[:2]
    points, share = principal_map({"plane": plane})
    assert share == pytest.approx(1)
    torch.testing.assert_close(torch.pdist(torch.tensor(points["plane"]).double()), torch.pdist(plane))
