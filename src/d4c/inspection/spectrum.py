"""Radial power spectra of images: photographs have power about 1 / f^2 (Field 1987; Ruderman 1994)."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from d4c.models.clip import CLIP

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of gamma-coded pictures (ITU-R BT.601)."""


def luma(clip: CLIP, pixels: Tensor) -> Tensor:
    """Brightness [N, S, S] of normalized pixels [N, 3, S, S] on the scale where 0 is black and 1 white.

    Values beyond black and white are kept, since the model sees them.
    """
    mean, std, weights = (torch.tensor(v)[:, None, None] for v in (clip.config.mean, clip.config.std, LUMA))
    return ((pixels * std + mean) * weights).sum(1)


@cache
def rings(size: int) -> Tensor:
    """Nearest integer distance from frequency 0 of each place in a 2-D FFT, int64 [size, size], cycles per image."""
    f = torch.fft.fftfreq(size, 1 / size)
    return (f[:, None].square() + f.square()).sqrt().round().long()


def radial_power(values: Tensor) -> tuple[Tensor, Tensor]:
    """Frequencies 1 .. S // 2 in cycles per image [F], and the power of each image at them [N, F].

    Power is |FFT|^2 of each [S, S] image, its mean taken off and multiplied by a Hann window so that the jump
    between opposite borders does not count as an edge, divided by the sum of the squared window, and averaged over
    all directions. White noise of variance v has power v at every frequency.
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
    """Which frequencies [F] a slope is fitted to: from 2 cycles per image to half of the highest one, boolean [F].

    Below are too few waves, above are the pixel grid and the filters of cameras and resizing.
    """
    return (frequency >= 2) & (frequency <= max(4, int(frequency[-1]) // 2))


def slopes(frequency: Tensor, power: Tensor) -> Tensor:
    """Least-squares slope of log power [N, F] over log frequency [F]: [N], 0 for white noise, near -2 for scenes."""
    used = fit_band(frequency)
    x = frequency[used].double().log()
    x = x - x.mean()
    y = power[:, used].clamp(min=math.ulp(0.0)).log()
    return (x * y).sum(1) / x.square().sum()
