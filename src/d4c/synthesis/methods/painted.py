"""Methods that paint images and use only the image size, mean and standard deviation of the model."""

from __future__ import annotations

from torch import Generator, Tensor

from d4c.calibration.natural import dead_leaves, gaussian_noise, pink_noise
from d4c.models.clip import CLIP


def noise(clip: CLIP, images: int, generator: Generator) -> Tensor:
    """Draw N(0, 1) in normalized pixel space, [N, 3, S, S]."""
    return gaussian_noise(images, clip.image_size, generator)


def pink(clip: CLIP, images: int, generator: Generator) -> Tensor:
    """Draw pictures of 1/f noise, normalized, [N, 3, S, S]."""
    return clip.normalize(pink_noise(images, clip.image_size, generator))


def leaves(clip: CLIP, images: int, generator: Generator) -> Tensor:
    """Draw pictures of dead leaves, normalized, [N, 3, S, S]."""
    return clip.normalize(dead_leaves(images, clip.image_size, generator))
