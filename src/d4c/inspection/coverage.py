"""Measures how much of what prompts can name a set of images shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from d4c.errors import DataError


@dataclass(frozen=True)
class Coverage:
    """How N images correspond to P prompts.

    With f an image's unit embedding, t_k the unit embedding of prompt k and s the model's logit scale,
    p = softmax(s f t^T) over the P prompts is what the model itself says that the image shows. Good sets have high `kl`
    and low `kl_of_mean`; mean(kl) - kl_of_mean is the logarithm of the Inception Score (Salimans et al. 2016) with
    prompts instead of classes.

    Args:
        prompts: P.
        nearest_prompts: Number of prompts that are the nearest one of some image.
        expected_prompts: The same for N independent uniform draws of a prompt on average, P (1 - (1 - 1 / P)^N), so
            that sets of different size can be compared.
        nearest_cosine: Cosine of each image with its nearest prompt [N].
        best_cosine: Cosine of each prompt with the image nearest to it [P].
        kl: KL(p || uniform) = log P - entropy(p) of each image [N] in nats: 0 for an image that shows nothing in
            particular, log P for one that shows a single prompt without doubt.
        kl_of_mean: The same of the mean of all p: 0 if the set as a whole shows every prompt equally often.
        target_cosine: Cosine with the target prompt, for each image that has one.
        target_kl: -log p(target), the KL divergence of p from the certain target, for each image that has one.
        recognized: Share of the images with a target whose nearest prompt it is; None where no image has a target.
    """

    prompts: int
    nearest_prompts: int
    expected_prompts: float
    nearest_cosine: tuple[float, ...]
    best_cosine: tuple[float, ...]
    kl: tuple[float, ...]
    kl_of_mean: float
    target_cosine: tuple[float, ...]
    target_kl: tuple[float, ...]
    recognized: float | None


def coverage(images: Tensor, texts: Tensor, logit_scale: float, targets: Tensor | None = None) -> Coverage:
    """Measure how images correspond to prompts.

    Args:
        images: Unit embeddings [N, D] of the images.
        texts: Unit embeddings [P, D] of the prompts.
        logit_scale: Factor from cosine to logit.
        targets: Index of each image's prompt, int64 [N], -1 where it has none; by default no image has one.

    Returns:
        The measures.

    Raises:
        DataError: The shapes do not fit.
    """
    n, p = len(images), len(texts)
    targets = torch.full((n,), -1) if targets is None else targets
    if not n or not p or images.shape[1] != texts.shape[1] or targets.shape != (n,):
        raise DataError(
            f"The embeddings are {list(images.shape)} of images and {list(texts.shape)} of prompts with targets "
            f"{list(targets.shape)}, expected [N, D], [P, D] and [N]; embed both with the same model."
        )
    cosines = images.double() @ texts.double().T
    log_p = (logit_scale * cosines).log_softmax(1)
    nearest = cosines.max(1)
    rows = (targets >= 0).nonzero()[:, 0]
    row_targets = targets[rows]
    return Coverage(
        prompts=p,
        nearest_prompts=len(nearest.indices.unique()),
        expected_prompts=p * (1 - (1 - 1 / p) ** n),
        nearest_cosine=tuple(nearest.values.tolist()),
        best_cosine=tuple(cosines.amax(0).tolist()),
        kl=tuple(kl_to_uniform(log_p).tolist()),
        kl_of_mean=float(kl_to_uniform(log_p.logsumexp(0) - math.log(n))),
        target_cosine=tuple(cosines[rows, row_targets].tolist()),
        target_kl=tuple((-log_p[rows, row_targets]).tolist()),
        recognized=float((nearest.indices[rows] == row_targets).double().mean()) if len(rows) else None,
    )


def kl_to_uniform(log_p: Tensor) -> Tensor:
    """Return KL(p || uniform) in nats [...] of distributions with logarithms log p [..., P]."""
    return math.log(log_p.shape[-1]) + (log_p.exp() * log_p).sum(-1)
