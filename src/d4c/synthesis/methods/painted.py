"""Methods that paint their images at once and ask nothing of the model but its image size, mean and std."""

from __future__ import annotations

from torch import Generator, Tensor

from d4c.calibration.natural import dead_leaves, gaussian_noise, pink_noise
from d4c.models.clip import CLIP


def noise(clip: CLIP, images: int, generator: Generator) -> Tensor:
    """N(0, 1) in normalized pixel space, [N, 3, S, S]."""
    return gaussian_noise(images, clip.image_size, generator)


def pink(clip: CLIP, images: int, generator: Generator) -> Tensor:
    """Pictures of 1/f noise, normalized, [N, 3, S, S]."""
    return clip.normalize(pink_noise(images, clip.image_size, generator))


def leaves(clip: CLIP, images: int, generator: Generator) -> Tensor:
    """Pictures of dead leaves, normalized, [N, 3, S, S]."""
    return clip.normalize(dead_leaves(images, clip.image_size, generator))
