"""The zero-shot distribution over prompts, and how far that of a quantized model is from it.

With p = softmax(s cos) over the prompts, s the logit scale, an image diverges by KL(p of the float model || p of the
model), in nats. Errors of both towers change p, so that both are measured in one unit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def log_distribution(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """log p [N, P] in float64 from embeddings [N, D] and [P, D] of any length."""
    cosines = F.normalize(images.double(), dim=-1) @ F.normalize(texts.double(), dim=-1).T
    return (logit_scale * cosines).log_softmax(-1)


def divergence(found: Tensor, expected: Tensor) -> Tensor:
    """KL(expected || found) of each image [N] in nats, from log p of both [N, P]."""
    return F.kl_div(found, expected, reduction="none", log_target=True).sum(-1)
