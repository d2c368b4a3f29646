"""What synthesized images are to achieve: the contrastive loss to a prompt, and smoothness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Mean squared horizontal plus mean squared vertical difference of neighbors, [N, C, H, W] to [N]."""
    horizontal = (images[..., 1:] - images[..., :-1]).square().mean((1, 2, 3))
    vertical = (images[..., 1:, :] - images[..., :-1, :]).square().mean((1, 2, 3))
    return horizontal + vertical


def prompt_loss(
    features: Tensor, texts: Tensor, targets: Tensor, temperature: float, backgrounds: Tensor | None, group: Tensor
) -> Tensor:
    """Cross-entropy of each image to its prompt among all prompts and the backgrounds of its own group: [N].

    logits = [f T^t, f b^t] / temperature with unit rows. `features` and `backgrounds` are [N, D] as the tower gives
    them, `texts` [P, D] is of unit length, `targets` and `group` are int64 [N]. Without backgrounds only the
    prompts compete. Gradients flow into features and backgrounds alike.
    """
    features = F.normalize(features, dim=-1)
    logits = features @ texts.T
    if backgrounds is not None:
        negatives = features @ F.normalize(backgrounds, dim=-1).T
        logits = torch.cat([logits, negatives.masked_fill(~same_group(group), float("-inf"))], 1)
    return F.cross_entropy(logits / temperature, targets, reduction="none")


def same_group(group: Tensor) -> Tensor:
    """Which images are in one group, from int64 [N] to boolean [N, N]."""
    return group[:, None] == group
