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
    features = F.normalize(features, dim=-1)
    logits = features @ texts.T
    if backgrounds is not None:
        negatives = features @ F.normalize(backgrounds, dim=-1).T
        logits = torch.cat([logits, negatives.masked_fill(~same_group(group), float("-inf"))], 1)
    return F.cross_entropy(logits / temperature, targets, reduction="none")


def same_group(group: Tensor) -> Tensor:
    """Tell which pairs of images are in one group, from int64 [N] to boolean [N, N]."""
    return group[:, None] == group
