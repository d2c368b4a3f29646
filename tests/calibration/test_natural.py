"""The controls have the statistics that they are named for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from d4c.calibration.natural import dead_leaves, gaussian_noise, pink_noise, spectral_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slope(images: Tensor) -> float:
    """Exponent of the mean power spectrum over frequency, from 2 to 16 cycles an image along both axes."""
    power = torch.fft.fft2(images).abs().square().mean((0, 1))
    line = (power[0, 2:17] + power[2:17, 0]).log()
    x = torch.arange(2.0, 17).log()
    x, line = x - x.mean(), line - line.mean()
    return float((x * line).sum() / x.square().sum())


def test_gaussian_noise_is_white_and_standard() -> None:
    noise = gaussian_noise(32, 64, generator())
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert slope(noise) == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("make", [gaussian_noise, spectral_noise, pink_noise, dead_leaves])
def test_the_number_of_threads_changes_no_image(make: Callable[[int, int, torch.Generator], Tensor]) -> None:
    threads = torch.get_num_threads()
    made, after = [], []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        made.append(make(16, 64, generator()))
        after.append(torch.get_num_threads())
    torch.set_num_threads(threads)
    assert after == [1, 2, 3]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_spectral_noise_has_power_of_minus_two_and_unit_variance() -> None:
    field = spectral_noise(32, 64, generator())
    assert slope(field) == pytest.approx(-2, abs=0.2)
    torch.testing.assert_close(field.std((2, 3), correction=0), torch.ones(32, 3))


def test_dead_leaves_fall_like_photographs() -> None:
    """Power between f^-1.6 and f^-2.4 at all scales, as of natural images."""
    assert -2.4 < slope(dead_leaves(64, 64, generator())) < -1.6


def test_dead_leaves_are_flat_between_edges() -> None:
    """Unlike noise of the same spectrum: neighbors mostly agree, and where they do not, they differ a lot."""

    def kurtosis(images: Tensor) -> float:
        step = (images[..., 1:] - images[..., :-1]).flatten()
        return float(step.pow(4).mean() / step.square().mean().square())

    assert kurtosis(dead_leaves(32, 64, generator())) > 3 * kurtosis(pink_noise(32, 64, generator()))


def test_more_leaves_make_more_edges() -> None:
    few, many = (dead_leaves(64, 32, generator(), shapes) for shapes in (1, 300))
    assert (many[..., 1:] - many[..., :-1]).abs().mean() > 2 * (few[..., 1:] - few[..., :-1]).abs().mean()


@pytest.mark.parametrize("make", [pink_noise, dead_leaves], ids=["pink", "leaves"])
@pytest.mark.parametrize("size", [1, 7, 32])
def test_pictures_are_finite_and_in_range_at_any_size(make: object, size: int) -> None:
    pictures = make(3, size, generator())  # type: ignore[operator]
    assert pictures.shape == (3, 3, size, size)
    assert bool(((pictures >= 0) & (pictures <= 1)).all())


def test_images_of_one_set_differ() -> None:
    pictures = dead_leaves(8, 32, generator()).flatten(1)
    assert torch.pdist(pictures).min() > 1
