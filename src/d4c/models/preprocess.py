"""Pictures to normalized pixels: shorter side to the model's size (bicubic), center crop, CLIP's mean and std.

Nothing here needs torch except `preprocess`, so that a runtime without torch sees the same pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from d4c.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# Resizing a part rounds differently from cutting a part out of the resized whole (Pillow's two passes change places),
# so it is kept for pictures at least this many times longer than wide.
_STRIP = 64


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The center square of a picture as RGB, `size` pixels a side.

    Colors are converted last, as in CLIP's own transform; a rotation noted in EXIF is not applied, there as here.
    Of strips, only the pixels that the crop keeps are computed, so that 1 x 100,000 pixels do not become
    224 x 22,400,000. Raises DataError for an empty picture.
    """
    width, height = image.size
    if not width or not height:
        raise DataError(f"the picture is {width} x {height} pixels, expected at least 1 x 1; leave it out.")
    short = min(width, height)
    full_width, full_height = int(size * width / short), int(size * height / short)
    left, top = round((full_width - size) / 2), round((full_height - size) / 2)
    if max(width, height) <= _STRIP * short:
        scaled = image.resize((full_width, full_height), Image.Resampling.BICUBIC)
        return scaled.crop((left, top, left + size, top + size)).convert("RGB")
    x, y = width / full_width, height / full_height
    box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
    return image.resize((size, size), Image.Resampling.BICUBIC, box).convert("RGB")


def pixels(
    image: Image.Image, size: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    """A picture of any size and mode to normalized pixels [3, size, size]; raises DataError for an empty picture."""
    scaled = np.asarray(resize_and_crop(image, size), np.float32) / np.float32(255)
    normal = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def preprocess(
    image: Image.Image, size: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """`pixels` as a float32 tensor [3, size, size]."""
    import torch

    return torch.from_numpy(pixels(image, size, mean, std))
