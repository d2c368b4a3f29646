"""Softened images: half of them as they were, the others without their finest detail."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d4c.calibration.softening import softened


def detail(images: Tensor) -> Tensor:
    """Mean energy of each image above half of the highest frequency."""
    spectrum = torch.fft.fft2(images).abs().square()
    frequency = torch.fft.fftfreq(images.shape[-1]).abs()
    return spectrum[..., torch.maximum(frequency[:, None], frequency) > 0.25].mean((1, 2))


def test_every_other_image_stays_and_the_rest_lose_their_detail() -> None:
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    result = softened(images)
    assert torch.equal(result[::2], images[::2])
    share = detail(result) / detail(images)
    assert bool((share[1::2] < 0.1).all())
    variance = result.var((1, 2, 3))
    assert bool((variance[3::4] < 0.5 * variance[1::4]).all())  # a quarter keeps less than a half


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(5, 40), st.floats(-3, 3))
def test_shape_and_flat_images_are_kept(count: int, size: int, value: float) -> None:
    images = torch.full((count, 3, size, size), value)
    torch.testing.assert_close(softened(images), images)


def test_the_argument_is_left_alone() -> None:
    images = torch.randn(4, 3, 16, 16)
    before = images.clone()
    softened(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("index", [1, 3])
def test_a_smooth_image_hardly_changes(index: int) -> None:
    ramp = torch.linspace(-1, 1, 64).expand(4, 3, 64, 64)
    inside = slice(8, -8)
    change = (softened(ramp) - ramp)[index, :, inside, inside]
    assert float(change.abs().max()) < 0.01
