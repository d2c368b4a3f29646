"""Affine maps whose gradient gathers, against the sampler of torch that scatters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.views import draw_step
from d4c.synthesis.warp import _Warp, reach, warp


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 180), st.floats(0, 0.9), st.floats(0, 0.5), st.integers(3, 20), st.integers(0, 2**31))
def test_the_gathered_gradient_is_that_of_the_sampler(
    rotation: float, scale: float, translate: float, size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    config = SynthesisConfig(method="pgsi+pae", rotation=rotation, scale=scale, translate=translate)
    draws = draw_step(3, size, config, generator).perturbation
    assert draws is not None
    theta = draws.theta.double()
    images = torch.randn(3, 2, size, size, dtype=torch.float64, generator=generator, requires_grad=True)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    literal = F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)
    ours = _Warp.apply(images, theta, reach(rotation, scale))  # type: ignore[no-untyped-call]
    weights = torch.randn(literal.shape, dtype=torch.float64, generator=generator)
    expected, found = (torch.autograd.grad((out * weights).sum(), images)[0] for out in (literal, ours))
    assert torch.equal(ours, literal)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_half_precision_rounds_colors_and_not_places() -> None:
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    draws = draw_step(4, 64, SynthesisConfig(method="pgsi+pae"), torch.Generator().manual_seed(1)).perturbation
    assert draws is not None
    full, half = (warp(x, draws.theta, draws.reach) for x in (images, images.bfloat16()))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0, atol=2**-8 * float(images.abs().max()))
