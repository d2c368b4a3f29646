"""Activation ranges against direct computation, and how two ranges compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from d4c.errors import DataError
from d4c.inspection.activations import SAMPLE, TAIL, Range, fit, fit_ranges, watch_ranges
from d4c.models.clip import CLIP


@torch.no_grad()
def ranges(clip: CLIP, *batches: Tensor) -> dict[str, Range]:
    with watch_ranges(clip) as recorder:
        for pixels in batches:
            clip.encode_image(pixels)
    return recorder.by_layer()


def test_every_layer_of_the_image_tower_is_recorded_and_q_k_v_once(demo_vit: CLIP) -> None:
    layers = [
        name
        for name, module in demo_vit.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name.startswith("image.")
    ]
    expected = [name for name in layers if not name.endswith((".attn.k", ".attn.v"))]
    assert list(ranges(demo_vit, torch.randn(1, 3, 64, 64))) == expected


def test_the_first_layer_has_the_range_of_the_pixels(demo: CLIP) -> None:
    pixels = torch.randn(4, 3, 64, 64)
    measured = next(iter(ranges(demo, pixels).values()))
    low, high = np.quantile(pixels.numpy(), [TAIL, 1 - TAIL])
    assert (measured.smallest, measured.largest) == (float(pixels.min()), float(pixels.max()))
    assert (measured.low, measured.high) == pytest.approx((low, high), rel=1e-4)


def test_batches_make_one_range(demo: CLIP) -> None:
    pixels = torch.randn(4, 3, 64, 64)
    whole, parts = ranges(demo, pixels), ranges(demo, pixels[:1], pixels[1:])
    assert list(whole) == list(parts)
    for name, one in whole.items():
        other = parts[name]
        ends = (one.low, one.high, one.smallest, one.largest)
        # Quantiles of samples; in the demo models most layers are small enough to be taken whole.
        width = one.high - one.low
        assert (other.low, other.high) == pytest.approx(ends[:2], abs=0.05 * width)
        assert (other.smallest, other.largest) == pytest.approx(ends[2:], abs=1e-3 * width)


def test_quantiles_of_a_large_input_come_from_a_sample(demo_rn: CLIP) -> None:
    pixels = torch.randn(24, 3, 64, 64)
    assert pixels.numel() > 2 * SAMPLE
    measured = ranges(demo_rn, pixels)["image.stem.conv1"]
    assert (measured.low, measured.high) == pytest.approx((-3.09, 3.09), abs=0.1)  # of the normal distribution
    assert (measured.smallest, measured.largest) == (float(pixels.min()), float(pixels.max()))


def test_nothing_is_left_on_the_model(demo: CLIP) -> None:
    ranges(demo, torch.randn(1, 3, 64, 64))
    assert not any(module._forward_pre_hooks for module in demo.modules())


@st.composite
def drawn_ranges(draw: st.DrawFn) -> Range:
    smallest, low, high, largest = sorted(draw(st.lists(st.floats(-100, 100), min_size=4, max_size=4, unique=True)))
    assume(high - low > 1e-3)
    return Range(low, high, smallest, largest)


@given(one=drawn_ranges(), other=drawn_ranges())
def test_overlap_is_symmetric_and_a_share_and_widths_are_reciprocal(one: Range, other: Range) -> None:
    there, back = fit(one, other), fit(other, one)
    assert there.overlap == pytest.approx(back.overlap)
    assert 0 <= there.overlap <= 1 + 1e-9
    assert there.width * back.width == pytest.approx(1)
    assert there.extent * back.extent == pytest.approx(1)
    assert there.overlap <= min(there.width, back.width) + 1e-9


@given(one=drawn_ranges())
def test_a_range_fits_itself(one: Range) -> None:
    same = fit(one, one)
    assert (same.width, same.extent, same.overlap) == pytest.approx((1, 1, 1))


def test_ranges_that_are_disjoint_or_half_inside() -> None:
    reference = Range(0, 2, -1, 3)
    assert fit(Range(3, 4, 3, 4), reference).overlap == 0
    half = fit(Range(1, 3, 0, 4), reference)
    assert (half.width, half.extent, half.overlap) == pytest.approx((1, 1, 1 / 3))
    assert fit(Range(1, 1, 1, 1), reference).width == 0


def test_layers_without_a_range_in_the_reference_are_left_out() -> None:
    flat, real = Range(0, 0, 0, 1), Range(0, 1, 0, 2)
    assert list(fit_ranges({"a": real, "b": real}, {"a": flat, "b": real})) == ["b"]
    with pytest.raises(DataError, match="a single value"):
        fit_ranges({"a": real}, {"a": flat})


def test_ranges_of_another_model_are_refused() -> None:
    real = Range(0, 1, 0, 2)
    with pytest.raises(DataError, match="different layers"):
        fit_ranges({"a": real}, {"b": real})
