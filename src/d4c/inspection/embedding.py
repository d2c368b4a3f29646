"""Where sets of images lie in embedding space, as a map and as numbers that need no picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import DataError
from d4c.inspection.extra import require

NEIGHBORS = 15

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Likeness:
    """How near a set of images is to the reference set.

    `nearest_neighbor`: balanced leave-one-out accuracy with which the nearest other image, by cosine, tells the two
    sets apart (Lopez-Paz and Oquab 2017): 1 if each keeps to itself, 0.5 if they are indistinguishable, and less if
    images have their twins in the other set. `centroid_cosine`: cosine between the mean unit embeddings.
    """

    nearest_neighbor: float
    centroid_cosine: float


def likeness(features: Tensor, reference: Tensor) -> Likeness:
    """Compare unit image embeddings [N, D] with those of the reference [M, D].

    Sets should be of one size: a nearest neighbor is found more often in the larger one. Raises DataError for fewer
    than 2 images on a side or another width.
    """
    if min(len(features), len(reference)) < 2 or features.shape[1] != reference.shape[1]:
        raise DataError(
            f"Embeddings are {list(features.shape)} and {list(reference.shape)}, expected at least 2 images on each "
            "side and one width; embed both sets with the same model."
        )
    both = torch.cat([features, reference]).double()
    label = torch.arange(len(both)) < len(features)
    cosines = (both @ both.T).fill_diagonal_(-torch.inf)
    right = (label[cosines.argmax(1)] == label).double()
    return Likeness(
        nearest_neighbor=float((right[label].mean() + right[~label].mean()) / 2),
        centroid_cosine=float(F.cosine_similarity(features.double().mean(0), reference.double().mean(0), dim=0)),
    )


def embedding_map(features: Mapping[str, Tensor], seed: int = 0) -> dict[str, Points]:
    """A two-dimensional UMAP (McInnes et al. 2018) of unit embeddings [N, D] of several sets, fitted on all together.

    Cosine distance, 15 neighbors (fewer if there are not as many images), minimal distance 0.1; the seed fixes it on
    one machine. Only who is near whom means something: the axes have no unit and far distances say little. Raises
    SettingError where umap-learn is not installed.
    """
    umap = require("umap")
    rows = torch.cat(list(features.values())).float().numpy()
    neighbors = min(NEIGHBORS, len(rows) - 1)
    # A seed allows only one thread; saying so keeps umap from warning about it.
    reducer = umap.UMAP(metric="cosine", n_neighbors=neighbors, min_dist=0.1, random_state=seed, n_jobs=1)
    threads = torch.get_num_threads()
    try:
        points = torch.from_numpy(reducer.fit_transform(rows)).split([len(part) for part in features.values()])
    finally:
        torch.set_num_threads(threads)  # umap sets another number for the whole process
    return {name: tuple((x, y) for x, y in part.tolist()) for name, part in zip(features, points, strict=True)}
