"""Batched views against the same thing image by image with torch's own operations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.views import (
    Boxes,
    Perturbation,
    background,
    box_mask,
    crop,
    draw_boxes,
    draw_step,
    move,
    perturb,
    windows,
)

CONFIG = SynthesisConfig()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(n: int, size: int) -> Perturbation:
    """The perturbation that does nothing."""
    theta = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(n, 2, 3).clone()
    return Perturbation(theta, torch.ones(n), torch.ones(n), torch.zeros(n), torch.ones(n, 1, size, size), 1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.data())
def test_crop_equals_interpolate_of_each_box(size: int, data: st.DataObject) -> None:
    side = torch.tensor(data.draw(st.lists(st.integers(1, size), min_size=1, max_size=4)))
    top = torch.tensor([data.draw(st.integers(0, size - s)) for s in side.tolist()])
    left = torch.tensor([data.draw(st.integers(0, size - s)) for s in side.tolist()])
    images = torch.randn(len(side), 3, size, size, dtype=torch.float64, generator=generator())
    ours = crop(images, windows(Boxes(top, left, side), size))
    for i, (t, l, s) in enumerate(zip(top.tolist(), left.tolist(), side.tolist(), strict=True)):
        box = images[i : i + 1, :, t : t + s, l : l + s]
        literal = F.interpolate(box, (size, size), mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours[i : i + 1], literal, rtol=0, atol=1e-6)  # the matrices are float32


def test_crop_in_float32_takes_nothing_from_outside_the_box() -> None:
    boxes = draw_boxes(64, 224, CONFIG, generator())
    images = 1 - box_mask(boxes, 224).float().expand(-1, 3, -1, -1)
    assert crop(images, windows(boxes, 224)).abs().max() == 0


def test_boxes_have_the_published_sides_and_reach_every_border() -> None:
    boxes = draw_boxes(20_000, 20, CONFIG, generator())
    low, high = (math.floor(math.sqrt(math.floor(share * 400))) for share in (0.4, 0.7))
    assert boxes.side.unique().tolist() == list(range(low, high + 1))
    for start in (boxes.top, boxes.left):
        assert int(start.min()) == 0
        assert int((start + boxes.side).max()) == 20
        smallest = start[boxes.side == low]
        assert smallest.bincount().tolist() == pytest.approx([len(smallest) / (21 - low)] * (21 - low), rel=0.25)


def test_mask_is_the_box() -> None:
    boxes = Boxes(torch.tensor([1, 0]), torch.tensor([2, 3]), torch.tensor([2, 1]))
    literal = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    literal[0, :, 1:3, 2:4] = True
    literal[1, :, 0, 3] = True
    assert torch.equal(box_mask(boxes, 4), literal)


def test_background_is_the_noise_in_the_box_and_image_plus_noise_around_it() -> None:
    boxes = draw_boxes(3, 16, CONFIG, generator())
    images, noise = torch.randn(2, 3, 3, 16, 16, generator=generator(1))
    inside = box_mask(boxes, 16).expand(-1, 3, -1, -1)
    out = background(images, windows(boxes, 16), noise)
    assert torch.equal(out[inside], noise[inside])
    assert torch.equal(out[~inside], (images + noise)[~inside])


def test_no_perturbation_is_the_identity() -> None:
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(perturb(images, plain(2, 16)), images, rtol=0, atol=1e-5)


def test_perturb_equals_its_steps_image_by_image() -> None:
    images = torch.randn(24, 3, 16, 16, dtype=torch.float64, generator=generator())
    p = draw_step(24, 16, CONFIG, generator(1)).perturbation
    assert p is not None
    ours = perturb(images, p)
    kernel = torch.tensor([1.0, 2, 1], dtype=torch.float64)
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    for i in range(24):
        x = images[i : i + 1]
        theta = p.theta[i : i + 1].double()
        if theta[0, :, :2].det() < 0:  # a flip changes the sign of the first row
            x, theta = x.flip(-1), theta * torch.tensor([[-1.0], [1.0]])
        x = F.grid_sample(x, F.affine_grid(theta, [1, 3, 16, 16], align_corners=False), align_corners=False)
        x = torch.lerp(x.mean(1, keepdim=True).expand_as(x), x, float(p.saturation[i])) * p.gain[i]
        if p.blur[i]:
            x = F.conv2d(x, kernel, padding=1, groups=3)
        x = x * p.keep[i]
        torch.testing.assert_close(ours[i : i + 1], x, rtol=0, atol=1e-9)


def test_draws_keep_to_the_published_ranges() -> None:
    p = draw_step(4000, 20, CONFIG, generator()).perturbation
    assert p is not None
    flipped = p.theta[:, :, :2].det() < 0
    upright = p.theta.clone()
    upright[flipped, 0] *= -1
    scale = upright[:, :, :2].det().sqrt()
    angle = torch.atan2(upright[:, 1, 0], upright[:, 0, 0]).rad2deg()
    erased = p.keep.flatten(1).min(1).values == 0
    ends = {
        "scale": (scale, 0.95, 1.05),
        "angle": (angle, -15, 15),
        "shift": (upright[:, :, 2], -0.05, 0.05),
        "gain": (p.gain, 0.36, 1.96),
        "saturation": (p.saturation, 0.6, 1.4),
    }
    for name, (values, low, high) in ends.items():
        margin = 0.1 * (high - low)
        assert low - 1e-4 <= values.min() < low + margin, name
        assert high - margin < values.max() <= high + 1e-4, name
    for name, share, expected in (("flip", flipped, 0.5), ("blur", p.blur, 0.3), ("erase", erased, 0.3)):
        assert float(share.float().mean()) == pytest.approx(expected, abs=0.03), name
    assert (1 - p.keep[erased]).sum((1, 2, 3)).unique().tolist() == [16]  # a square of 0.2 * 20 pixels


def test_rows_of_draws_are_the_draws_of_rows() -> None:
    draws = draw_step(6, 8, CONFIG, generator())
    part = draws[2:4]
    assert draws.perturbation is not None
    assert draws.noise is not None
    assert part.perturbation is not None
    assert part.noise is not None
    images = torch.randn(6, 3, 8, 8)
    assert torch.equal(perturb(images, draws.perturbation)[2:4], perturb(images[2:4], part.perturbation))
    assert torch.equal(draws.noise[2:4], part.noise)


def test_move_equals_roll_and_flip_image_by_image() -> None:
    images = torch.randn(16, 3, 12, 12, generator=generator())
    draws = draw_step(16, 12, SynthesisConfig(method="pse", pse_form="psaq", jitter=0.25), generator(1)).move
    assert draws is not None
    ours = move(images, draws)
    for image, moved, down, right, flip in zip(images, ours, draws.down, draws.right, draws.flip, strict=True):
        rolled = image.roll((int(down), int(right)), (1, 2))
        assert torch.equal(moved, rolled.flip(2) if flip else rolled)
    assert 0 < int(draws.flip.sum()) < 16


def test_moves_reach_as_far_as_configured_in_each_direction() -> None:
    config = SynthesisConfig(method="pse", pse_form="psaq", jitter=0.2, flip_p=0.25)
    draws = draw_step(4000, 20, config, generator()).move
    assert draws is not None
    for shift in (draws.down, draws.right):
        assert shift.unique().tolist() == list(range(-4, 5))
    assert float(draws.flip.float().mean()) == pytest.approx(0.25, abs=0.03)
