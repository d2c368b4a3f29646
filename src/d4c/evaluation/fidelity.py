"""Closeness of a model to the float model it came from."""

from __future__ import annotations

import torch.nn.functional as F

from d4c.errors import DataError
from d4c.evaluation.embed import Embeddings
from d4c.evaluation.metrics import Fidelity, wilson
from d4c.zeroshot.divergence import divergence, log_distribution


def fidelity(model: Embeddings, reference: Embeddings) -> Fidelity:
    """Compare embeddings of the same images and classes; see `Fidelity` for what each number means.

    An image that is the whole of the reference's mean (a dataset of one image) counts as centered cosine 0.

    Args:
        model: Embeddings of the model to judge.
        reference: Embeddings of the float model.

    Raises:
        DataError: If the two were not made from the same dataset or differ in embedding size.
    """
    if (model.dataset, model.image.shape, model.text.shape) != (
        reference.dataset,
        reference.image.shape,
        reference.text.shape,
    ):
        raise DataError(
            f"The reference embeddings are of {describe(reference)}, expected {describe(model)}; "
            "embed the float model on the same dataset with the same limit."
        )
    mean = reference.image.mean(0)
    centered = F.cosine_similarity(model.image - mean, reference.image - mean, dim=-1)
    same = int((model.scores().argmax(-1) == reference.scores().argmax(-1)).sum())
    log_p, expected = (log_distribution(side.image, side.text, side.logit_scale) for side in (model, reference))
    return Fidelity(
        cosine=float((model.image * reference.image).sum(-1).mean()),
        centered_cosine=float(centered.mean()),
        text_cosine=float((model.text * reference.text).sum(-1).mean()),
        agreement=wilson(same, len(model.image)),
        kl=float(divergence(log_p, expected).mean()),
    )


def describe(side: Embeddings) -> str:
    images, width = side.image.shape
    return f"{images} images and {len(side.text)} classes of {side.dataset!r} in {width} dimensions"
