"""Ranges from extremes and percentiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d4c
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.quantization.formats.affine import fake_quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.extremes import covering_range
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.ranges.search import Points, summarize


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.integers(2, 8), st.sampled_from([0.0, 0.01])
)
def test_no_value_of_a_row_is_clipped_by_more_than_half_a_step(values: list[float], bits: int, outside: float) -> None:
    """A hundredth of at most twenty values is none of them."""
    x = torch.tensor([values])
    scale, zero_point = covering_range(summarize(x), bits, outside)
    y = fake_quantize(x, scale[:, None], zero_point[:, None], 0, 2**bits - 1)
    # The zero point is rounded too, so that an end may lie half a step outside.
    assert bool(((y - x).abs() <= scale * 1.0001 + 1e-30).all())
    assert float(fake_quantize(torch.zeros(1), scale, zero_point, 0, 2**bits - 1)) == 0


@pytest.mark.parametrize("outside", [0.02, 0.1])
def test_a_percentile_range_leaves_half_of_its_share_on_each_side(outside: float) -> None:
    x = torch.arange(-500.0, 501.0)[None, torch.randperm(1001)]
    scale, zero_point = covering_range(summarize(x), 8, outside)
    low, high = -zero_point * scale, (255 - zero_point) * scale
    assert abs(float((x < low).float().mean()) - outside / 2) < 0.004
    assert abs(float((x > high).float().mean()) - outside / 2) < 0.004


def test_a_weight_counts_as_that_many_values() -> None:
    values, times = torch.randn(2, 40), torch.randint(1, 5, (2, 40))
    repeated = [
        covering_range(summarize(v.repeat_interleave(t)[None]), 6, 0.1) for v, t in zip(values, times, strict=True)
    ]
    scale, zero_point = covering_range(Points(values, times.float()), 6, 0.1)
    assert torch.equal(scale, torch.cat([s for s, _ in repeated]))
    assert torch.equal(zero_point, torch.cat([z for _, z in repeated]))


def test_each_rule_is_best_by_its_own_measure() -> None:
    """Values with a far tail: the range of all is widest, and that of least error has least error."""
    x = torch.cat([torch.randn(20_000), torch.tensor([60.0, -50.0])])
    ranges = {}
    for rule in ("mse", "minmax", "percentile"):
        observer = Observer(QuantArgs(6, False, "tensor"), "x", rule)
        observer.add(x)
        ranges[rule] = observer.finish()
    error = {rule: float((fake_quantize(x, *of, 0, 63) - x).abs().pow(2.4).mean()) for rule, of in ranges.items()}
    assert error["mse"] == min(error.values())
    assert float(ranges["minmax"][0]) * 63 == pytest.approx(110)
    assert float(ranges["percentile"][0]) * 63 < 10


def test_the_rule_of_a_model_is_recorded_and_an_unknown_one_refused(tiny_vit: CLIP) -> None:
    calibration = d4c.synthesize(tiny_vit, "noise", images=4)
    prompts = [f"a photo of {i} cats" for i in range(32)]
    wide = d4c.quantize(tiny_vit, calibration, "W4A4", ranges="minmax", reconstruction="none", prompts=prompts)
    best = d4c.quantize(tiny_vit, calibration, "W4A4", reconstruction="none", prompts=prompts)
    assert (wide.recipe["ranges"], best.recipe["ranges"]) == ("minmax", "mse")
    layer = "image.blocks.0.mlp.fc2.input_quantizer.scale"
    assert float(wide.get_parameter(layer)) > float(best.get_parameter(layer))
    with pytest.raises(SettingError, match="expected 'mse' or 'minmax' or 'percentile'"):
        d4c.quantize(tiny_vit, calibration, "W8A8", ranges="max")
