"""Softens calibration images: weights that are fitted to sharp images only fail on enlarged or blurred pictures.

Synthetic images have detail at every scale. Photographs may have none at the finest, such as CIFAR-10's 32 pixels after
enlargement. GPTQ moves rounding errors to where its images hold little, which is at the scales of such pictures.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SHARPNESS = (1, 2, 1, 4)
"""Divisors of the width of images, in rotation."""


def softened(pixels: Tensor) -> Tensor:
    """Reduce every second image to a half or a quarter of its size and enlarge it again.

    Args:
        pixels: Images [N, 3, S, S].

    Returns:
        New images [N, 3, S, S], of which every second one is a plain copy.
    """
    result = pixels.clone()
    size = pixels.shape[-1]
    for first, factor in enumerate(SHARPNESS):
        part = pixels[first :: len(SHARPNESS)]
        if factor > 1 and len(part):
            small = F.interpolate(part, size=-(-size // factor), mode="bicubic", antialias=True)
            result[first :: len(SHARPNESS)] = F.interpolate(small, size=size, mode="bicubic")
    return result
