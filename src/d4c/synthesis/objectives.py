"""Objectives that several methods share: the contrastive loss to a prompt, and total variation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Return the mean squared horizontal plus the mean squared vertical difference of neighbors.

    Args:
        images: Images [N, C, H, W].

    Returns:
        Total variation of each image [N].
    """
    horizontal = (images[..., 1:] - images[..., :-1]).square().mean((1, 2, 3))
    vertical = (images[..., 1:, :] - images[..., :-1, :]).square().mean((1, 2, 3))
    return horizontal + vertical


def prompt_loss(
    features: Tensor, texts: Tensor, targets: Tensor, temperature: float, backgrounds: Tensor | None, group: Tensor
) -> Tensor:
    """Compute the cross-entropy of each image to its prompt among all prompts and the backgrounds of its group.

    logits = [f T^t, f b^t] / temperature with unit rows. Gradients flow into features and backgrounds.

    Args:
        features: Embeddings f of the images [N, D], of any length.
        texts: Unit embeddings T of the prompts [P, D].
        targets: Index of each image's prompt, int64 [N].
        temperature: Divisor of the cosines.
        backgrounds: Embeddings b of the backgrounds [N, D], of any length; without them only the prompts compete.
        group: Group of each image, int64 [N].

    Returns:
        Losses [N].
    """
    return F.cross_entropy(_cosines(features, texts, backgrounds, group) / temperature, targets, reduction="none")


def pair_loss(
    features: Tensor,
    texts: Tensor,
    targets: Tensor,
    scale: Tensor,
    bias: Tensor,
    backgrounds: Tensor | None,
    group: Tensor,
) -> Tensor:
    """Compute the loss of SigLIP (arXiv 2303.15343) of each image and each prompt or background of its group as a pair.

    It is the sum of -log sigmoid(z l) with l = scale * cosine + bias, z = 1 for the image's prompt and -1 for others.

    Args:
        features: Embeddings of the images [N, D], of any length.
        texts: Unit embeddings of the prompts [P, D].
        targets: Index of each image's prompt, int64 [N].
        scale: Factor from cosine to logit, one number.
        bias: What is added to logits, one number.
        backgrounds: Embeddings of the backgrounds [N, D], of any length; without them only the prompts count.
        group: Group of each image, int64 [N].

    Returns:
        Losses [N].
    """
    logits = scale * _cosines(features, texts, backgrounds, group) + bias
    signs = 2 * F.one_hot(targets, logits.shape[1]).to(logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum(1)


def _cosines(features: Tensor, texts: Tensor, backgrounds: Tensor | None, group: Tensor) -> Tensor:
    """Cosines of images to prompts, and to backgrounds, which are minus infinity for those of other groups."""
    features = F.normalize(features, dim=-1)
    cosines = features @ texts.T
    if backgrounds is None:
        return cosines
    negatives = features @ F.normalize(backgrounds, dim=-1).T
    return torch.cat([cosines, negatives.masked_fill(~same_group(group), float("-inf"))], 1)


def same_group(group: Tensor) -> Tensor:
    """Tell which pairs of images are in one group, from int64 [N] to boolean [N, N]."""
    return group[:, None] == group
