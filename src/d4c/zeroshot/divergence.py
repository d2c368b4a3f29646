"""The zero-shot distribution over prompts, and its divergence from that of the float model.

With p = softmax(s cos) over the prompts, where s is the logit scale, an image diverges by KL(p of the float model || p
of the model), in nats. Errors of both towers change p, so that both are measured in one unit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def log_distribution(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """Return the logarithm of each image's zero-shot distribution.

    Args:
        images: Embeddings [N, D] of any length.
        texts: Embeddings [P, D] of the prompts, of any length.
        logit_scale: Factor s from cosine to logit.

    Returns:
        log p [N, P] in float64.
    """
    cosines = F.normalize(images.double(), dim=-1) @ F.normalize(texts.double(), dim=-1).T
    return (logit_scale * cosines).log_softmax(-1)


def divergence(log_p: Tensor, expected: Tensor) -> Tensor:
    """Return KL(expected || p) of each image.

    Args:
        log_p: Logarithm of the model's distribution [N, P].
        expected: Logarithm of the float model's distribution [N, P].

    Returns:
        Divergences [N] in nats.
    """
    return F.kl_div(log_p, expected, reduction="none", log_target=True).sum(-1)
