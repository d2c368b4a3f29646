"""Compares sets of images in embedding space, in numbers and as a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import DataError

Points = tuple[tuple[float, float], ...]
"""Coordinates of the images of a set on the map."""


@dataclass(frozen=True)
class Likeness:
    """How close a set of images is to the reference set.

    Args:
        nearest_neighbor: Balanced leave-one-out accuracy with which the nearest other image, by cosine, tells the two
            sets apart (Lopez-Paz and Oquab 2017): 1 if the sets are separate, 0.5 if they are indistinguishable, and
            less if images have their twins in the other set.
        centroid_cosine: Cosine between the mean unit embeddings.
    """

    nearest_neighbor: float
    centroid_cosine: float


def likeness(features: Tensor, reference: Tensor) -> Likeness:
    """Compare a set of images with the reference.

    Both should have the same size: a nearest neighbor is more often in the larger set.

    Args:
        features: Unit image embeddings [N, D].
        reference: Unit image embeddings of the reference [M, D].

    Returns:
        The measures.

    Raises:
        DataError: A set has fewer than 2 images, or the two have different widths.
    """
    if min(len(features), len(reference)) < 2 or features.shape[1] != reference.shape[1]:
        raise DataError(
            f"The embeddings have shapes {list(features.shape)} and {list(reference.shape)}, expected at least 2 "
            "images in each set and one width; embed both sets with the same model."
        )
    both = torch.cat([features, reference]).double()
    in_first = torch.arange(len(both)) < len(features)
    cosines = (both @ both.T).fill_diagonal_(-torch.inf)
    same_set = (in_first[cosines.argmax(1)] == in_first).double()
    return Likeness(
        nearest_neighbor=float((same_set[in_first].mean() + same_set[~in_first].mean()) / 2),
        centroid_cosine=float(F.cosine_similarity(features.double().mean(0), reference.double().mean(0), dim=0)),
    )


def principal_map(features: Mapping[str, Tensor]) -> tuple[dict[str, Points], float]:
    """Project the embeddings of several sets on the first two principal components of all of them.

    Args:
        features: Unit embeddings [N, D] of each set, by name.

    Returns:
        N points for each set, and the share of the variance that the map shows.
    """
    rows = torch.cat(list(features.values())).double()
    rows = rows - rows.mean(0)
    _, values, axes = torch.linalg.svd(rows, full_matrices=False)
    largest = axes[:2].abs().argmax(1, keepdim=True)
    axes = axes[:2] * axes[:2].gather(1, largest).sign()  # the sign of an axis is arbitrary
    points = (rows @ axes.T).split([len(part) for part in features.values()])
    share = float(values[:2].square().sum() / values.square().sum().clamp(min=1e-30))
    return {name: tuple((x, y) for x, y in part.tolist()) for name, part in zip(features, points, strict=True)}, share
