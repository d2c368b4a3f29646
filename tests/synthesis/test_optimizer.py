"""The coasting Adam against the published loop, written out with torch.optim.Adam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.loop import evaluate_step, image_losses
from d4c.synthesis.optimizer import CoastingAdam
from d4c.synthesis.setup import prepare
from d4c.synthesis.tower.working import working_copy
from d4c.synthesis.views import draw_step

TINY = CLIPConfig(16, ViTConfig(16, 8, 64, 1, 1, 32), TextConfig(64, 1, 1, 32, context_length=12))
Gradient = Callable[[Tensor, int, slice], Tensor]


def literal(start: Tensor, group_size: int, iterations: int, lr: float, gradient: Gradient) -> Tensor:
    """The published loop: one Adam over everything, a step a group, zero gradients for the other groups."""
    images = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([images], lr=lr)
    for i in range(iterations):
        for begin in range(0, len(start), group_size):
            rows = slice(begin, begin + group_size)
            full = torch.zeros_like(images)
            full[rows] = gradient(images.detach(), i, rows)
            images.grad = full
            adam.step()
    return images.detach()


@pytest.mark.parametrize(("images", "group_size"), [(4, 2), (5, 2), (3, 3)], ids=["2 groups", "3 uneven", "1 group"])
@pytest.mark.parametrize("method", ["pgsi", "d4c", "pse"])
def test_all_groups_at_once_equal_the_published_loop(method: str, images: int, group_size: int) -> None:
    config = SynthesisConfig(method=method, images=images, group_size=group_size, iterations=4, lr=0.05)
    clip = working_copy(CLIP(TINY), None)
    setup, start, generator = prepare(clip, config, ["a cat", "a dog", "a car"], seed=1)
    clip.double()
    draws = [draw_step(images, clip.image_size, config, generator) for _ in range(config.iterations)]
    setup = replace(setup, texts=setup.texts.double())
    start = start.double()

    def gradient(current: Tensor, i: int, rows: slice) -> Tensor:
        part = current[rows].clone().requires_grad_()
        loss = image_losses(clip, config, setup[rows], part, draws[i][rows]).mean()
        return torch.autograd.grad(loss, part)[0]

    ours = start.clone()
    adam = CoastingAdam(
        ours, setup.group, images // group_size + (images % group_size > 0), config.iterations, config.lr
    )
    for i in range(config.iterations):
        adam.step(evaluate_step(clip, config, setup, ours, draws[i])[1])
    theirs = literal(start, group_size, config.iterations, config.lr, gradient)
    assert (theirs - start).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # Adam magnifies the rounding of tiny gradients


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.floats(1e-3, 0.5), st.integers(0, 2**31))
def test_equals_the_published_loop_for_any_number_of_groups(
    groups: int, group_size: int, iterations: int, lr: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n = groups * group_size
    start = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    curvature = torch.randn(iterations, n, 3, generator=generator, dtype=torch.float64)
    ours = start.clone()
    adam = CoastingAdam(ours, torch.arange(n) // group_size, groups, iterations, lr)
    for i in range(iterations):
        adam.step(curvature[i] * ours)
    theirs = literal(start, group_size, iterations, lr, lambda x, i, rows: curvature[i, rows] * x[rows])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_coasting_moves_an_image_about_2_8_times_as_far() -> None:
    """With 8 groups and gradients of random sign, as the published note says: sqrt(8) = 2.83."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(600, 1, 2000, generator=generator, dtype=torch.float64)
    shared = torch.zeros(8, 2000, dtype=torch.float64)
    alone = torch.zeros(8, 2000, dtype=torch.float64)
    together = CoastingAdam(shared, torch.arange(8), 8, 600, 0.01)
    single = CoastingAdam(alone, torch.zeros(8, dtype=torch.long), 1, 600, 0.01)
    for gradient in gradients:
        together.step(gradient.expand(8, -1))
        single.step(gradient.expand(8, -1))
    assert shared.std() / alone.std() == pytest.approx(8**0.5, rel=0.1)


def test_a_pixel_without_gradient_stays() -> None:
    images = torch.ones(2, 3)
    adam = CoastingAdam(images, torch.tensor([0, 1]), 2, 3, 0.1)
    for _ in range(3):
        adam.step(torch.tensor([[0.0, 1.0, -1.0]]).expand(2, -1))
    assert torch.equal(images[:, 0], torch.ones(2))
    assert (images[:, 1] < 1).all()
    assert (images[:, 2] > 1).all()
