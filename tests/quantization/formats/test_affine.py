"""Laws of affine quantization."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from d4c.quantization.formats.affine import dequantize, fake_quantize, quantize

formats = st.tuples(st.integers(2, 8), st.booleans())
scales = st.floats(1e-4, 10)
seeds = st.integers(0, 10_000)


def case(bits: int, signed: bool, scale: float, seed: int) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Values that reach beyond both edges, scale, zero point, and the edges of the codes."""
    generator = torch.Generator().manual_seed(seed)
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    zero = 0 if signed else int(torch.randint(2**bits, (), generator=generator))
    x = torch.randn(64, generator=generator) * scale * 2**bits
    return x, torch.tensor(scale), torch.tensor(float(zero)), qmin, qmax


@given(formats, scales, seeds)
def test_fake_quantizing_is_quantizing_and_dequantizing(form: tuple[int, bool], scale: float, seed: int) -> None:
    x, s, z, qmin, qmax = case(*form, scale, seed)
    assert torch.equal(fake_quantize(x, s, z, qmin, qmax), dequantize(quantize(x, s, z, qmin, qmax), s, z))


@given(formats, scales, seeds)
def test_quantizing_twice_changes_nothing(form: tuple[int, bool], scale: float, seed: int) -> None:
    x, s, z, qmin, qmax = case(*form, scale, seed)
    once = fake_quantize(x, s, z, qmin, qmax)
    assert torch.equal(fake_quantize(once, s, z, qmin, qmax), once)


@given(formats, scales, seeds)
def test_codes_are_integers_in_range_and_keep_the_order(form: tuple[int, bool], scale: float, seed: int) -> None:
    x, s, z, qmin, qmax = case(*form, scale, seed)
    codes = quantize(x.sort().values, s, z, qmin, qmax)
    assert torch.equal(codes, codes.round())
    assert qmin <= int(codes.min()) <= int(codes.max()) <= qmax
    assert bool((codes.diff() >= 0).all())


@given(formats, scales, seeds)
def test_inside_the_range_the_error_is_at_most_half_a_step(form: tuple[int, bool], scale: float, seed: int) -> None:
    x, s, z, qmin, qmax = case(*form, scale, seed)
    inside = (x >= (qmin - z) * s) & (x <= (qmax - z) * s)
    error = (fake_quantize(x, s, z, qmin, qmax) - x).abs()[inside]
    assert bool((error <= 0.5001 * s).all())


def test_halves_round_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert quantize(x, torch.tensor(1.0), torch.tensor(0.0), -8, 7).tolist() == [-2, -2, 0, 0, 2, 2]


def test_values_beyond_the_edges_are_clamped() -> None:
    edges = fake_quantize(torch.tensor([-1e9, 1e9]), torch.tensor(0.5), torch.tensor(3.0), 0, 15)
    assert edges.tolist() == [-1.5, 6.0]


@given(formats, scales, seeds)
def test_gradient_of_x_is_one_inside_and_zero_outside(form: tuple[int, bool], scale: float, seed: int) -> None:
    x, s, z, qmin, qmax = case(*form, scale, seed)
    x.requires_grad_(True)
    fake_quantize(x, s, z, qmin, qmax).sum().backward()
    code = torch.round(x.detach() / s) + z
    assert x.grad is not None
    # Within the rounding of s * (1 / s).
    assert torch.allclose(x.grad, ((code >= qmin) & (code <= qmax)).float(), atol=1e-6)


@given(formats, scales, seeds)
def test_gradient_of_scale_is_that_of_lsq(form: tuple[int, bool], scale: float, seed: int) -> None:
    """Inside round(x / s) - x / s, outside the code of the edge: equation 3 of arXiv 1902.08153."""
    x, s, z, qmin, qmax = case(*form, scale, seed)
    per_value = s.expand(len(x)).clone().requires_grad_(True)
    fake_quantize(x, per_value, z, qmin, qmax).sum().backward()
    code = torch.round(x / s) + z
    inside = torch.round(x / s) - x / s
    expected = torch.where(code < qmin, qmin - z, torch.where(code > qmax, qmax - z, inside))
    assert per_value.grad is not None
    assert torch.allclose(per_value.grad, expected, atol=1e-3)


@pytest.mark.parametrize("value", [0.37, 40.0, -40.0], ids=["inside", "above", "below"])
def test_gradient_of_scale_is_a_finite_difference_of_the_surrogate(value: float) -> None:
    """The straight-through surrogate adds the rounding offset as a constant."""
    x, s, z = torch.tensor(value, dtype=torch.float64), torch.tensor(0.11, dtype=torch.float64), torch.tensor(5.0)
    offset = torch.round(x / s) - x / s

    def surrogate(scale: Tensor) -> Tensor:
        return ((x / scale + offset + z).clamp(0, 15) - z) * scale

    s.requires_grad_(True)
    (slope,) = torch.autograd.grad(fake_quantize(x, s, z, 0, 15), s)
    with torch.no_grad():
        difference = float((surrogate(s + 1e-6) - surrogate(s - 1e-6)) / 2e-6)
    assert float(slope.detach()) == pytest.approx(difference, rel=1e-5)
