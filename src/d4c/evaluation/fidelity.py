"""Compares a model with the float model that it was made from."""

from __future__ import annotations

import torch.nn.functional as F

from d4c.errors import DataError
from d4c.evaluation.embed import Embeddings
from d4c.evaluation.metrics import Fidelity, wilson
from d4c.zeroshot.divergence import divergence, log_distribution


def fidelity(model: Embeddings, reference: Embeddings) -> Fidelity:
    """Compare embeddings of the same images and classes.

    With one image, which is then its mean, the centered cosine is 0.

    Args:
        model: Embeddings of the model to judge.
        reference: Embeddings of the float model.

    Returns:
        Cosines, the share of same classes and KL divergence, as `Fidelity` defines them.

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
    same = int((model.scores().argmax(-1) == reference.scores().argmax(-1)).sum())
    log_p, expected = (log_distribution(each.image, each.text, each.logit_scale) for each in (model, reference))
    return Fidelity(
        cosine=float((model.image * reference.image).sum(-1).mean()),
        centered_cosine=float(centered.mean()),
        text_cosine=float((model.text * reference.text).sum(-1).mean()),
        same_class=wilson(same, len(model.image)),
        kl=float(divergence(log_p, expected).mean()),
    )


def _description(embeddings: Embeddings) -> str:
    images, width = embeddings.image.shape
    return f"{images} images and {len(embeddings.text)} classes of {embeddings.dataset!r} in {width} dimensions"
