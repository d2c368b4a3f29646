"""AdaRound starts at the float weight and ends on a neighboring code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.rounding.adaround import GAMMA, ZETA, SoftRounding

formats = st.tuples(st.integers(2, 8), st.booleans(), st.integers(0, 1000))
few = settings(max_examples=30, deadline=None)


def rounded(bits: int, symmetric: bool, seed: int) -> tuple[QuantizedLinear, SoftRounding]:
    torch.manual_seed(seed)
    source = nn.Linear(20, 6).requires_grad_(False)
    layer = QuantizedLinear(
        source, QuantArgs(bits, symmetric, "channel"), ActivationQuantizer(QuantArgs(8, False, "tensor"))
    )
    layer.calibrate_weight()
    return layer, SoftRounding(layer, layer.source_weight())


@given(formats)
@few
def test_the_start_is_the_float_weight_where_the_range_reaches(form: tuple[int, bool, int]) -> None:
    layer, rounding = rounded(*form)
    args, weight = layer.weight_args, layer.source_weight()
    low = (args.qmin - layer.weight_zero_point) * layer.weight_scale
    high = (args.qmax - layer.weight_zero_point) * layer.weight_scale
    expected = torch.minimum(torch.maximum(weight, low), high)
    # Fractions nearer to an integer than 1e-4 are moved away from it, so that they have a gradient.
    assert bool(((rounding() - expected).abs() <= 2e-4 * layer.weight_scale).all())


@given(formats)
@few
def test_codes_are_floor_or_ceiling_within_the_range(form: tuple[int, bool, int]) -> None:
    layer, rounding = rounded(*form)
    args = layer.weight_args
    with torch.no_grad():
        rounding.alpha.normal_(0, 3)
    exact = layer.source_weight() / layer.weight_scale + layer.weight_zero_point
    codes = rounding.codes()
    floor, ceiling = exact.floor().clamp(args.qmin, args.qmax), (exact.floor() + 1).clamp(args.qmin, args.qmax)
    assert bool(((codes == floor) | (codes == ceiling)).all())
    assert bool((codes >= args.qmin).all())
    assert bool((codes <= args.qmax).all())


@given(formats)
@few
def test_untrained_codes_are_rounding_to_nearest(form: tuple[int, bool, int]) -> None:
    layer, rounding = rounded(*form)
    exact = layer.source_weight() / layer.weight_scale
    tie = (exact - exact.floor() - 0.5).abs() < 1e-4
    assert torch.equal(rounding.codes()[~tie], layer.codes.float()[~tie])


@given(formats)
@few
def test_codes_are_the_limit_of_the_soft_weight(form: tuple[int, bool, int]) -> None:
    layer, rounding = rounded(*form)
    with torch.no_grad():
        rounding.alpha.copy_(torch.where(torch.rand_like(rounding.alpha) < 0.5, -20.0, 20.0))
    layer.set_codes(rounding.codes())
    assert torch.allclose(layer.weight, rounding(), atol=1e-6)


@torch.no_grad()
def test_the_regularizer_is_zero_once_every_offset_is_0_or_1() -> None:
    _, rounding = rounded(4, True, 0)
    beta = torch.tensor(3.0)
    assert float(rounding.regularizer(beta)) > 0
    rounding.alpha.copy_(torch.where(torch.rand_like(rounding.alpha) < 0.5, -20.0, 20.0))
    assert float(rounding.regularizer(beta)) == 0
    rounding.alpha[0, 0] = 0.1
    assert 0 < float(rounding.regularizer(beta)) <= 1


@pytest.mark.parametrize("beta", [2.0, 7.5, 20.0])
def test_the_regularizer_is_the_published_formula(beta: float) -> None:
    _, rounding = rounded(4, True, 0)
    expected = 0.0
    for alpha in rounding.alpha.flatten().double().tolist():
        sigmoid = 1 / (1 + torch.tensor(-alpha, dtype=torch.float64).exp())
        h = min(max(float(sigmoid) * (ZETA - GAMMA) + GAMMA, 0.0), 1.0)
        expected += 1 - abs(2 * h - 1) ** beta
    assert float(rounding.regularizer(torch.tensor(beta)).detach()) == pytest.approx(expected, rel=1e-4)


def test_the_stretched_sigmoid_has_the_published_limits() -> None:
    assert (ZETA, GAMMA) == (1.1, -0.1)
