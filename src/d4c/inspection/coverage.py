"""Prompt coverage: how much of what words can name is shown by a set of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from d4c.errors import DataError


@dataclass(frozen=True)
class Coverage:
    """How N images answer to P prompts.

    With f an image's unit embedding, t_k the unit embedding of prompt k and s the model's logit scale,
    p = softmax(s f t^T) over the P prompts is what the model itself says that the image shows.

    `nearest_prompts` is the number of prompts that are the nearest one of some image; `expected_prompts` is what N
    independent uniform draws of a prompt would give on average, P (1 - (1 - 1 / P)^N), so that sets of different size
    can be judged. `nearest_cosine` [N] is each image's cosine with its nearest prompt, `best_cosine` [P] each prompt's
    cosine with the image nearest to it. `kl` [N] is KL(p || uniform) = log P - entropy(p) in nats: 0 for an image that
    shows nothing in particular, log P for one that shows a single prompt without doubt. `kl_of_mean` is the same of
    the mean of all p: 0 if the set as a whole shows every prompt equally often. Good sets have high `kl` and low
    `kl_of_mean`; mean(kl) - kl_of_mean is the logarithm of the Inception Score (Salimans et al. 2016) with
    prompts in the place of classes.

    For images with a target prompt, `target_cosine` is the cosine with it, `target_kl` = -log p(target), the KL
    divergence of p from the certain target, and `recognized` the share whose nearest prompt is their target; the
    tuples are empty and the share is None where no image has a target.
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
    """Measure unit image embeddings [N, D] against unit prompt embeddings [P, D].

    `targets` int64 [N] is each image's prompt, -1 where it has none. Raises DataError if shapes do not fit.
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
    aimed = targets[rows]
    return Coverage(
        prompts=p,
        nearest_prompts=len(nearest.indices.unique()),
        expected_prompts=p * (1 - (1 - 1 / p) ** n),
        nearest_cosine=tuple(nearest.values.tolist()),
        best_cosine=tuple(cosines.amax(0).tolist()),
        kl=tuple(kl_to_uniform(log_p).tolist()),
        kl_of_mean=float(kl_to_uniform(log_p.logsumexp(0) - math.log(n))),
        target_cosine=tuple(cosines[rows, aimed].tolist()),
        target_kl=tuple((-log_p[rows, aimed]).tolist()),
        recognized=float((nearest.indices[rows] == aimed).double().mean()) if len(rows) else None,
    )


def kl_to_uniform(log_p: Tensor) -> Tensor:
    """KL(p || uniform) in nats of distributions given as log p [..., P]: [...]."""
    return math.log(log_p.shape[-1]) + (log_p.exp() * log_p).sum(-1)
