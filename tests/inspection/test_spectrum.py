"""Power spectra of signals whose spectrum is known."""

from __future__ import annotations

import math

import pytest
import torch

from d4c.calibration.natural import spectral_noise
from d4c.inspection.spectrum import fit_band, luma, radial_power, rings, slopes
from d4c.models.clip import CLIP


def test_rings_are_rounded_distances_from_frequency_zero() -> None:
    for size in (8, 9):
        index = rings(size)
        for y in range(size):
            for x in range(size):
                assert index[y, x] == round(math.hypot(min(y, size - y), min(x, size - x)))


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_white_noise_has_its_variance_at_every_frequency(variance: float) -> None:
    frequency, power = radial_power(variance**0.5 * torch.randn(64, 64, 64))
    mean = power.mean(0)[frequency >= 2]  # below, the window takes some of it off with the mean
    torch.testing.assert_close(mean, torch.full_like(mean, variance), rtol=0.15, atol=0)
    assert abs(float(slopes(frequency, power).mean())) < 0.1


def test_noise_of_amplitude_1_over_f_has_slope_minus_2() -> None:
    noise = spectral_noise(64, 64, torch.Generator().manual_seed(0))[:, 0]
    assert float(slopes(*radial_power(noise)).mean()) == pytest.approx(-2, abs=0.1)


def test_a_wave_has_its_power_at_its_frequency() -> None:
    x = torch.arange(48) / 48
    waves = torch.stack([torch.cos(2 * math.pi * k * x).expand(48, 48) for k in (3, 9, 20)])
    frequency, power = radial_power(waves)
    assert frequency[power.argmax(1)].tolist() == [3, 9, 20]


def test_brightness_does_not_count_and_contrast_is_squared() -> None:
    image = torch.rand(3, 32, 32, dtype=torch.float64)
    frequency, power = radial_power(image)
    _, changed = radial_power(5 + 3 * image)
    torch.testing.assert_close(changed, 9 * power)
    torch.testing.assert_close(slopes(frequency, changed), slopes(frequency, power))


def test_images_of_one_color_have_no_power_and_a_finite_slope() -> None:
    frequency, power = radial_power(torch.full((1, 16, 16), 0.5))
    assert power.max() < 1e-20
    assert bool(slopes(frequency, power).isfinite().all())


def test_slopes_are_fitted_from_two_waves_to_half_of_nyquist() -> None:
    frequency = torch.arange(1, 33)
    assert frequency[fit_band(frequency)].tolist() == list(range(2, 17))


def test_luma_of_a_gray_picture_is_its_value(demo_vit: CLIP) -> None:
    gray = torch.rand(2, 1, 4, 4) * 3 - 1
    torch.testing.assert_close(luma(demo_vit, demo_vit.normalize(gray.expand(-1, 3, -1, -1))), gray[:, 0])
