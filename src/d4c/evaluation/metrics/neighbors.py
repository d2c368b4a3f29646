"""Image-image retrieval without labels: does a picture still find what it finds in the float model?"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEAREST = 10
"""Neighbors that are compared."""
GALLERY = 2000
"""Images that are compared at most, evenly spread, since time grows with their square."""


def neighbor_overlap(model: Tensor, reference: Tensor) -> NDArray[np.float64]:
    """Return the share in percent of the ten nearest images in the reference that are among the model's ten, [M].

    Args:
        model: Unit embeddings [M, D] of images.
        reference: Those of the float model, in the same order.

    Returns:
        A share for each image; with fewer than eleven images all others but one are the nearest.
    """
    nearest = max(1, min(NEAREST, len(model) - 2))
    chosen = [_cosines(each).topk(nearest, 1).indices for each in (model, reference)]
    shared = (chosen[0][:, :, None] == chosen[1][:, None, :]).any(2).sum(1)
    return 100 * shared.double().numpy() / nearest


def rank_correlations(model: Tensor, reference: Tensor) -> NDArray[np.float64]:
    """Return Spearman's correlation between the cosines of an image with all others in both models, [M].

    Args:
        model: Unit embeddings [M, D] of images.
        reference: Those of the float model, in the same order.
    """
    ranks = [_ranks(_cosines(each)) for each in (model, reference)]
    a, b = (each - each.mean(1, keepdim=True) for each in ranks)
    return ((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt().clamp_min(1e-12)).numpy()


def gallery(count: int) -> list[int]:
    """Return the indices of the images to compare: all, or `GALLERY` of them at even distances."""
    return list(range(count)) if count <= GALLERY else [k * count // GALLERY for k in range(GALLERY)]


def _cosines(rows: Tensor) -> Tensor:
    """Return the cosines [M, M - 1] of each image with all others."""
    count = len(rows)
    others = ~torch.eye(count, dtype=torch.bool)
    return (rows @ rows.T)[others].view(count, count - 1)


def _ranks(rows: Tensor) -> Tensor:
    """Return the place of each value in its row, in float64."""
    places = torch.arange(rows.shape[1], dtype=torch.float64).expand(rows.shape)
    return torch.empty(rows.shape, dtype=torch.float64).scatter_(1, rows.argsort(dim=1, stable=True), places)
