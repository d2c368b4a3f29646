"""Retrieval between images and captions: recall among the 1, 5 and 10 best, both ways."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d4c.evaluation.metrics.accuracy import label_ranks
from d4c.evaluation.metrics.intervals import Interval, bootstrap, mean_of, wilson

BEST = (1, 5, 10)
"""How many results are looked at."""
ROWS = 512
"""Queries that are ranked at once."""


def retrieval_figures(image: Tensor, text: Tensor, owners: NDArray[np.int64]) -> dict[str, Interval]:
    """Compute recalls in percent, as papers on CLIP define them: whether at least one right result is among the k best.

    Args:
        image: Unit embeddings [N, D].
        text: Unit embeddings [T, D] of captions.
        owners: The image that each caption belongs to, [T].

    Returns:
        `text_recall1`, `text_recall5` and `text_recall10`, the share of images that find a caption of theirs, with
        Wilson intervals; `image_recall1` and so on, the share of captions that find their image, with bootstrap
        intervals over images, since captions of one image are not independent.
    """
    text_ranks, image_ranks = caption_ranks(image, text, owners), owner_ranks(image, text, owners)
    sizes = np.bincount(owners, minlength=len(image))
    figures = {f"text_recall{k}": wilson(int((text_ranks < k).sum()), len(image)) for k in BEST}
    hits = {k: 100.0 * np.bincount(owners, image_ranks < k, minlength=len(image)) for k in BEST}
    return figures | bootstrap({f"image_recall{k}": mean_of(hits[k], sizes) for k in BEST}, len(image))


def caption_ranks(image: Tensor, text: Tensor, owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count for each image the captions that score higher than the best of its own, [N]; earlier ones win ties."""
    owner = torch.from_numpy(owners)
    ranks = []
    for start in range(0, len(image), ROWS):
        scores = image[start : start + ROWS] @ text.T
        own = owner[None] == torch.arange(start, start + len(scores))[:, None]
        best, place = scores.masked_fill(~own, -torch.inf).max(1, keepdim=True)
        earlier = torch.arange(len(text)) < place
        ranks.append(((scores > best) | ((scores == best) & earlier)).sum(1))
    return torch.cat(ranks).numpy()


def owner_ranks(image: Tensor, text: Tensor, owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count for each caption the images that score higher than its own, [T]; earlier ones win ties."""
    owner = torch.from_numpy(owners)
    ranks = [
        label_ranks(text[start : start + ROWS] @ image.T, owner[start : start + ROWS])
        for start in range(0, len(text), ROWS)
    ]
    return torch.cat(ranks).numpy()
