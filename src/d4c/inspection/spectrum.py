"""Computes radial power spectra of images: photographs have power about 1 / f^2 (Field 1987; Ruderman 1994)."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from d4c.models.clip import CLIP

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of gamma-coded pictures (ITU-R BT.601)."""


def luma(clip: CLIP, pixels: Tensor) -> Tensor:
    """Return the brightness of images on the scale where 0 is black and 1 is white.

    Values beyond black and white are kept, since the model sees them.

    Args:
        clip: The model, whose mean and standard deviation the pixels are normalized with.
        pixels: Normalized pixels [N, 3, S, S].

    Returns:
        Brightness [N, S, S].
    """
    mean, std, weights = (torch.tensor(v)[:, None, None] for v in (clip.config.mean, clip.config.std, LUMA))
    return ((pixels * std + mean) * weights).sum(1)


@cache
def rings(size: int) -> Tensor:
    """Round the frequency of each bin of a 2-D FFT to whole cycles per image, int64 [size, size]."""
    f = torch.fft.fftfreq(size, 1 / size)
    return (f[:, None].square() + f.square()).sqrt().round().long()


def radial_power(values: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the power of each image by frequency, averaged over all directions.

    Power is |FFT|^2 of the image minus its mean times a Hann window w, divided by the sum of w^2. The window keeps the
    jump between opposite borders from counting as an edge. White noise of variance v has power v at every frequency.

    Args:
        values: Brightness [N, S, S].

    Returns:
        Frequencies 1 .. S // 2 in cycles per image [F], and the power of each image at them [N, F].
    """
    n, size, _ = values.shape
    hann = torch.hann_window(size, dtype=torch.float64)
    window = hann[:, None] * hann
    values = values.double()
    mean = (values * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((values - mean) * window).abs().square() / window.square().sum()
    index = rings(size).flatten()
    sums = torch.zeros(n, int(index.max()) + 1, dtype=power.dtype).index_add_(1, index, power.flatten(1))
    frequency = torch.arange(1, size // 2 + 1)
    return frequency, sums[:, frequency] / index.bincount()[frequency]


def fit_band(frequency: Tensor) -> Tensor:
    """Choose the frequencies that a slope is fitted to: from 2 cycles per image to half of the highest one.

    Lower frequencies have too few waves; higher ones show the pixel grid and the filters of cameras and resizing.

    Args:
        frequency: Frequencies in cycles per image [F].

    Returns:
        Boolean [F].
    """
    return (frequency >= 2) & (frequency <= max(4, int(frequency[-1]) // 2))


def slopes(frequency: Tensor, power: Tensor) -> Tensor:
    """Fit the slope of log power over log frequency by least squares: 0 for white noise, near -2 for scenes.

    Args:
        frequency: Frequencies in cycles per image [F].
        power: Power of each image [N, F].

    Returns:
        Slopes [N].
    """
    band = fit_band(frequency)
    x = frequency[band].double().log()
    x = x - x.mean()
    y = power[:, band].clamp(min=math.ulp(0.0)).log()
    return (x * y).sum(1) / x.square().sum()
