"""Factors bring every form onto one, and their strength is the one of least error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d4c.quantization.formats.scheme import QuantArgs, Scheme
from d4c.quantization.placement import LayerPlan
from d4c.quantization.symmetries.strength import Reader, best_factors, factors

STRENGTHS = (0.0, 0.25, 0.5, 1.0)


def formats(scheme: str) -> LayerPlan:
    bits = Scheme.parse(scheme)
    inputs = QuantArgs(bits.activation_bits, False, "tensor")
    return LayerPlan(QuantArgs(bits.weight_bits, True, "channel"), (inputs,))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), strength=st.sampled_from(STRENGTHS), orders=st.floats(0, 6))
def test_whatever_form_comes_in_the_same_goes_out(seed: int, strength: float, orders: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    widths, columns, scale = (
        10 ** (orders * (torch.rand(9, generator=generator, dtype=torch.float64) - 0.5)) for _ in range(3)
    )
    dead = torch.rand(9, generator=generator) < 0.3
    widths[dead] *= 1e-9
    plain = factors(widths, columns, strength)
    scaled = factors(widths * scale, columns / scale, strength)
    torch.testing.assert_close(scaled, plain * scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_widths_and_columns_share_the_product(strength: float) -> None:
    widths, columns = torch.rand(2, 20, dtype=torch.float64) + 0.1
    r = factors(widths, columns, strength)
    product = widths * columns
    torch.testing.assert_close(widths / r, product.pow(1 - strength))
    torch.testing.assert_close(columns * r, product.pow(strength))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_dead_channel_grows_neither_in_width_nor_in_column(strength: float) -> None:
    widths = torch.tensor([1.0, 1.0, 0.0, 1e-20, 0.5, 0.0], dtype=torch.float64)
    columns = torch.tensor([1.0, 0.5, 1.0, 30.0, 0.0, 0.0], dtype=torch.float64)
    r = factors(widths, columns, strength)
    assert bool((r > 0).all())
    assert bool(r.isfinite().all())
    assert float((columns * r).max()) <= 1 + 1e-9
    assert float((widths / r).max()) <= 1 + 1e-9
    assert float(r[5]) == 1


@torch.no_grad()
@pytest.mark.parametrize(("scheme", "strength"), [("W8A3", 1.0), ("W3A8", 0.0)])
def test_what_has_few_bits_gets_the_even_side(scheme: str, strength: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48).double()
    scales = torch.logspace(-0.7, 0.7, 64, dtype=torch.float64)
    sample = torch.randn(8, 60, 64, dtype=torch.float64) * scales
    readers = [Reader(layer, sample, formats(scheme))]
    widths = 4 * scales
    columns = readers[0].columns(widths)
    assert torch.equal(best_factors(widths, readers, (0.0, 1.0)), factors(widths, columns, strength))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_error_does_not_depend_on_what_the_outputs_are_scaled_by(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 24).double() if kind == "linear" else nn.Conv2d(16, 24, 3, padding=1).double()
    sample = torch.rand(4, 10, 16, dtype=torch.float64) if kind == "linear" else torch.rand(4, 16, 5, 5).double()
    r = torch.rand(16, dtype=torch.float64) + 0.5
    reader = Reader(layer, sample, formats("W4A4"))
    error, columns = reader.error(r), reader.columns(r)
    layer.weight.mul_(torch.logspace(-3, 3, 24, dtype=torch.float64).view(-1, *[1] * (layer.weight.ndim - 1)))
    assert reader.error(r) == pytest.approx(error, rel=1e-3)
    torch.testing.assert_close(reader.columns(r), columns)
