"""Compares a model with the float model that it was made from."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from d4c.errors import DataError
from d4c.evaluation.embed import Embeddings
from d4c.evaluation.metrics.dense import heat_map_overlap, patch_cosines
from d4c.evaluation.metrics.intervals import Interval, bootstrap, mean_of, wilson
from d4c.evaluation.metrics.neighbors import gallery, neighbor_overlap, rank_correlations
from d4c.evaluation.metrics.record import Fidelity
from d4c.zeroshot.divergence import divergence, log_distribution

ROWS = 1024
"""Images whose distributions over texts are held at once."""


def fidelity(model: Embeddings, reference: Embeddings) -> Fidelity:
    """Compare embeddings of the same images and texts, without labels.

    With one image, which is then its mean, the centered cosine is 0.

    Args:
        model: Embeddings of the model to judge.
        reference: Embeddings of the float model.

    Returns:
        Cosines, the share of same texts, KL divergence, neighbors and, if both have them, patches, as `Fidelity`
        defines them.

    Raises:
        DataError: The two are not of the same dataset or differ in embedding size.
    """
    if (model.dataset, model.image.shape, model.text.shape, model.skipped) != (
        reference.dataset,
        reference.image.shape,
        reference.text.shape,
        reference.skipped,
    ):
        raise DataError(
            f"The reference embeddings are of {_description(reference)}, expected {_description(model)}; "
            "embed the float model that the other was made from on the same dataset with the same limit."
        )
    mean = reference.image.mean(0)
    centered = F.cosine_similarity(model.image - mean, reference.image - mean, dim=-1)
    same, kl = _texts_of_images(model, reference)
    figures = _means(
        {
            "cosine": _cosines(model.image, reference.image),
            "centered_cosine": centered.double().numpy(),
            "kl": kl,
        }
    )
    figures |= _means({"text_cosine": _cosines(model.text, reference.text)})
    figures |= _neighbors(model.image, reference.image) | _patches(model, reference)
    whole = ("neighbors", "heat_map")
    return Fidelity(
        **{name: figure if name in whole else figure.value for name, figure in figures.items()},  # type: ignore[arg-type]
        same_class=wilson(int(same.sum()), len(same)),
        bounds={name: (figure.low, figure.high) for name, figure in figures.items() if name not in whole},
    )


def _texts_of_images(model: Embeddings, reference: Embeddings) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether both choose the same text for an image, and how far their distributions over the texts diverge, [N]."""
    same, kl = [], []
    for start in range(0, len(model.image), ROWS):
        rows = slice(start, start + ROWS)
        log_p, expected = (
            log_distribution(each.image[rows], each.text, each.logit_scale) for each in (model, reference)
        )
        chosen = [(each.image[rows] @ each.text.T).argmax(-1) for each in (model, reference)]
        same.append(chosen[0] == chosen[1])
        kl.append(divergence(log_p, expected))
    return torch.cat(same).numpy(), torch.cat(kl).numpy()


def _neighbors(model: Tensor, reference: Tensor) -> dict[str, Interval]:
    """What pictures find among pictures; with fewer than three there is nothing to rank."""
    if len(model) < 3:
        return {}
    chosen = gallery(len(model))
    near, far = model[chosen], reference[chosen]
    return _means({"neighbors": neighbor_overlap(near, far), "rank_correlation": rank_correlations(near, far)})


def _patches(model: Embeddings, reference: Embeddings) -> dict[str, Interval]:
    """What becomes of patches, if both were embedded."""
    if model.patches is None or reference.patches is None:
        return {}
    return _means(
        {
            "patch_cosine": patch_cosines(model.patches, reference.patches),
            "heat_map": heat_map_overlap(model.patches, reference.patches, model.text, reference.text),
        }
    )


def _means(values: dict[str, NDArray[np.float64]]) -> dict[str, Interval]:
    """The mean of each figure over what it has one number for, with its interval."""
    count = len(next(iter(values.values())))
    return bootstrap({name: mean_of(each) for name, each in values.items()}, count)


def _cosines(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    return (a * b).sum(-1).double().numpy()


def _description(embeddings: Embeddings) -> str:
    images, width = embeddings.image.shape
    return f"{images} images and {len(embeddings.text)} texts of {embeddings.dataset!r} in {width} dimensions"
