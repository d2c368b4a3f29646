"""Turns pictures into normalized pixels as CLIP and SigLIP do: resize and crop or squash, then mean and std.

Nothing here needs torch, so that a runtime without torch computes the same pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from d4c.errors import DataError
from d4c.pictures import Picture, as_rgb, opened_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from d4c.models.config import Interpolation, Resize

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# Resizing a part rounds differently from cropping the resized whole, since Pillow swaps its two passes. So only
# pictures whose sides differ by more than this factor are resized in part.
_STRIP_RATIO = 64


def resized(
    image: Image.Image, size: int, resize: Resize = "crop", interpolation: Interpolation = "bicubic"
) -> Image.Image:
    """Turn a picture into a square.

    As in Hugging Face's transform, colors are converted first, so that palettes and single bits are interpolated.

    Args:
        image: A picture of any size and mode, which `as_rgb` converts.
        size: Side of the square in pixels.
        resize: "crop" resizes the shorter side and crops the center, "squash" resizes both sides to `size`.
        interpolation: Filter of the resize.

    Returns:
        The square as RGB.

    Raises:
        DataError: The picture is empty.
    """
    width, height = image.size
    if not width or not height:
        raise DataError(f"The picture is {width} x {height} pixels, expected at least 1 x 1; leave it out.")
    image = as_rgb(image)
    if resize == "squash":
        return image.resize((size, size), FILTERS[interpolation])
    return _cropped(image, size, FILTERS[interpolation])


def _cropped(image: Image.Image, size: int, resampling: Image.Resampling) -> Image.Image:
    """Resize the shorter side and crop the center square.

    For very long pictures, only the pixels inside the crop are computed, so that 1 x 100,000 pixels do not become
    224 x 22,400,000.
    """
    width, height = image.size
    short = min(width, height)
    full_width, full_height = int(size * width / short), int(size * height / short)
    left, top = round((full_width - size) / 2), round((full_height - size) / 2)
    if max(width, height) <= _STRIP_RATIO * short:
        scaled = image.resize((full_width, full_height), resampling)
        return scaled.crop((left, top, left + size, top + size))
    x_scale, y_scale = width / full_width, height / full_height
    right, bottom = min((left + size) * x_scale, width), min((top + size) * y_scale, height)
    box = (left * x_scale, top * y_scale, right, bottom)
    return image.resize((size, size), resampling, box)


def pixels(
    picture: Picture,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    resize: Resize = "crop",
    interpolation: Interpolation = "bicubic",
) -> NDArray[np.float32]:
    """Turn a picture into normalized pixels: (RGB / 255 - mean) / std.

    Args:
        picture: A picture of any size and mode: a Pillow image, a path, bytes, an open file or an array.
        size: Side of the square that the model reads, in pixels.
        mean: Mean of red, green and blue in [0, 1].
        std: Standard deviation of red, green and blue.
        resize: "crop" or "squash", as `resized` describes.
        interpolation: Filter of the resize.

    Returns:
        float32 [3, size, size].

    Raises:
        DataError: The picture is empty or does not decode.
    """
    with opened_picture(picture) as image:
        scaled = np.asarray(resized(image, size, resize, interpolation), np.float32) / np.float32(255)
    normal = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))
