"""Draws images without a model or optimization: Gaussian noise, 1/f noise and dead leaves.

1/f noise and dead leaves have the second-order and edge statistics of photographs (Ruderman 1994, Lee et al. 2001;
Baradad et al. 2021, "Learning to see by looking at noise"). They are the controls that any synthesis has to beat.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor


def uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    """Draw `n` numbers uniformly from `low` to `high`."""
    return torch.rand(n, generator=generator, device=generator.device) * (high - low) + low


def gaussian_noise(n: int, size: int, generator: Generator) -> Tensor:
    """Draw N(0, 1) in normalized pixel space, [n, 3, size, size], from which the published synthesis starts."""
    return torch.randn(n, 3, size, size, generator=generator, device=generator.device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one CPU thread in the block, whose results would depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()  # for MKL's transforms
def spectral_noise(n: int, size: int, generator: Generator) -> Tensor:
    """Draw noise of amplitude 1/f, each channel with zero mean and unit variance, [n, 3, size, size]."""
    spectrum = torch.fft.rfft2(gaussian_noise(n, size, generator))
    y = torch.fft.fftfreq(size, device=spectrum.device)[:, None]
    x = torch.fft.rfftfreq(size, device=spectrum.device)
    frequency = (y.square() + x.square()).sqrt()
    frequency[0, 0] = float("inf")  # the mean
    field: Tensor = torch.fft.irfft2(spectrum / frequency, s=(size, size))
    scale: Tensor = field.std((2, 3), correction=0, keepdim=True)
    return field / scale.clamp(min=1e-12)


def pink_noise(n: int, size: int, generator: Generator) -> Tensor:
    """Draw 1/f noise as pictures with values in [0, 1], [n, 3, size, size].

    As in photographs, channels are strongly correlated, and brightness and contrast differ between images.
    """
    fields = spectral_noise(n, size, generator)
    gray = fields.mean(1, keepdim=True) * 3**0.5
    color = uniform(n, 0.2, 0.6, generator)[:, None, None, None]
    tint = 0.1 * torch.randn(n, 3, 1, 1, generator=generator, device=generator.device)
    mean = uniform(n, 0.3, 0.65, generator)[:, None, None, None]
    contrast = uniform(n, 0.12, 0.3, generator)[:, None, None, None]
    return (mean + tint + contrast * (gray + color * (fields - fields.mean(1, keepdim=True)))).clamp(0, 1)


def dead_leaves(n: int, size: int, generator: Generator, shapes: int = 300) -> Tensor:
    """Draw overlapping colored discs and rectangles with a faint 1/f texture (dead leaves).

    Radii have density r^-3 between 0.03 and 1 of the side, for which the picture looks alike at every scale. With 300
    shapes little of the ground stays visible. All images are painted at once, one shape after the other.

    Args:
        n: Number of images.
        size: Side of the images in pixels.
        generator: Source of random numbers, whose device the images are made on.
        shapes: Number of shapes per image.

    Returns:
        Pictures with values in [0, 1], [n, 3, size, size].
    """
    device = generator.device
    count = n * shapes
    smallest, largest = 0.03, 1.0
    share = torch.rand(count, generator=generator, device=device)
    radius = size * (smallest**-2 - share * (smallest**-2 - largest**-2)) ** -0.5
    stretch = (uniform(count, -0.5, 0.5, generator)).exp()
    half = torch.stack([radius * stretch, radius / stretch], -1).view(n, shapes, 2)
    center = size * torch.rand(n, shapes, 2, generator=generator, device=device)
    pixel = torch.arange(size, device=device) + 0.5
    offset = (pixel - center[..., None]) / half[..., None]  # [n, shapes, 2, size], 1 at the rim
    top = torch.zeros(n, size, size, dtype=torch.long, device=device)
    for k in range(shapes):
        y, x = offset[:, k, 0, :, None], offset[:, k, 1, None, :]
        inside = y.square() + x.square() <= 1 if k % 2 else (y.abs() <= 1) & (x.abs() <= 1)
        top.masked_fill_(inside, k + 1)
    gray = torch.rand(n, 1, shapes + 1, generator=generator, device=device)
    chroma = 0.2 * torch.randn(n, 3, shapes + 1, generator=generator, device=device)
    colors = (gray + chroma).clamp(0, 1)
    picture = colors.gather(2, top.view(n, 1, -1).expand(-1, 3, -1)).view(n, 3, size, size)
    texture = uniform(n, 0.02, 0.08, generator)[:, None, None, None] * spectral_noise(n, size, generator)
    return (picture + texture).clamp(0, 1)
