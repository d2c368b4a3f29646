"""Dense features: do the patches of an image keep their direction, and does a text still light up the same ones?"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BRIGHT = 0.25
"""Share of the patches that a heat map marks."""


def patch_cosines(model: Tensor, reference: Tensor) -> NDArray[np.float64]:
    """Return the mean cosine of the patches of each image in both models, [M].

    Args:
        model: Embeddings [M, P, D] of the patches of images.
        reference: Those of the float model.
    """
    return F.cosine_similarity(model, reference, dim=-1).double().mean(1).numpy()


def heat_map_overlap(model: Tensor, reference: Tensor, text: Tensor, reference_text: Tensor) -> NDArray[np.float64]:
    """Return the share in percent of the patches a text lights up in the float model that it does in the model, [M].

    The text of an image is the one that the float model's patches are closest to on average. A heat map is the cosine
    of each patch with it, and marks a quarter of the patches.

    Args:
        model: Embeddings [M, P, D] of the patches of images.
        reference: Those of the float model.
        text: Unit embeddings [T, D] of texts.
        reference_text: Those of the float model.
    """
    model, reference = F.normalize(model, dim=-1), F.normalize(reference, dim=-1)
    chosen = (reference.mean(1) @ reference_text.T).argmax(1)
    bright = max(1, round(BRIGHT * model.shape[1]))
    maps = [(patches * each[chosen][:, None]).sum(-1) for patches, each in ((model, text), (reference, reference_text))]
    marked = [values.topk(bright, 1).indices for values in maps]
    shared = (marked[0][:, :, None] == marked[1][:, None, :]).any(2).sum(1)
    return 100 * shared.double().numpy() / bright
