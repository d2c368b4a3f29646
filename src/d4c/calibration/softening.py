"""Calibration images at several sharpnesses: what is fitted to sharp ones alone fails on enlarged or blurred pictures.

A synthetic image has detail at every scale, a photograph may have none at the finest: CIFAR-10's 32 pixels, enlarged,
have none. GPTQ moves the errors of rounding to where its images hold little, which is just there.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SHARPNESS = (1, 2, 1, 4)
"""By how much the width of every fourth image, counted from the first, second, third and fourth one, is divided."""


def softened(pixels: Tensor) -> Tensor:
    """Every second image reduced to a half or a quarter of its size and enlarged again.

    Args:
        pixels: [N, 3, S, S].

    Returns:
        New images [N, 3, S, S]; the others are as they were.
    """
    result = pixels.clone()
    size = pixels.shape[-1]
    for first, factor in enumerate(SHARPNESS):
        part = pixels[first :: len(SHARPNESS)]
        if factor > 1 and len(part):
            small = F.interpolate(part, size=-(-size // factor), mode="bicubic", antialias=True)
            result[first :: len(SHARPNESS)] = F.interpolate(small, size=size, mode="bicubic")
    return result
