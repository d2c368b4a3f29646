"""Factors bring every form onto one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d4c.quantization.symmetries.strength import columns, factors

STRENGTHS = (0.0, 0.25, 0.5, 1.0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), strength=st.sampled_from(STRENGTHS), orders=st.floats(0, 6))
def test_whatever_form_comes_in_the_same_goes_out(seed: int, strength: float, orders: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    widths, sizes, scale = (
        10 ** (orders * (torch.rand(9, generator=generator, dtype=torch.float64) - 0.5)) for _ in range(3)
    )
    dead = torch.rand(9, generator=generator) < 0.3
    widths[dead] *= 1e-9
    plain = factors(widths, sizes, strength)
    scaled = factors(widths * scale, sizes / scale, strength)
    torch.testing.assert_close(scaled, plain * scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_widths_and_columns_share_the_product(strength: float) -> None:
    widths, sizes = torch.rand(2, 20, dtype=torch.float64) + 0.1
    r = factors(widths, sizes, strength)
    product = widths * sizes
    torch.testing.assert_close(widths / r, product.pow(1 - strength))
    torch.testing.assert_close(sizes * r, product.pow(strength))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_dead_channel_grows_neither_in_width_nor_in_column(strength: float) -> None:
    widths = torch.tensor([1.0, 1.0, 0.0, 1e-20, 0.5, 0.0], dtype=torch.float64)
    sizes = torch.tensor([1.0, 0.5, 1.0, 30.0, 0.0, 0.0], dtype=torch.float64)
    r = factors(widths, sizes, strength)
    assert bool((r > 0).all())
    assert bool(r.isfinite().all())
    assert float((sizes * r).max()) <= 1 + 1e-9
    assert float((widths / r).max()) <= 1 + 1e-9
    assert float(r[5]) == 1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_columns_do_not_depend_on_what_the_outputs_are_scaled_by(kind: str) -> None:
    layer = nn.Linear(16, 24).double() if kind == "linear" else nn.Conv2d(16, 24, 3, padding=1).double()
    widths = torch.rand(16, dtype=torch.float64) + 0.5
    before = columns([layer], [None], widths)
    layer.weight.mul_(torch.logspace(-3, 3, 24, dtype=torch.float64).view(-1, *[1] * (layer.weight.ndim - 1)))
    torch.testing.assert_close(columns([layer], [None], widths), before)


@torch.no_grad()
def test_columns_do_not_depend_on_the_basis_of_heads() -> None:
    queries, keys = (nn.Linear(16, 24, bias=False).double() for _ in range(2))
    inputs, widths = torch.randn(50, 16, dtype=torch.float64), torch.rand(16, dtype=torch.float64) + 0.5

    def measured() -> torch.Tensor:
        written = keys(inputs).unflatten(1, (3, 8))
        return columns([queries], [torch.einsum("nhi,nhj->hij", written, written)], widths)

    before = measured()
    for matrix, head in zip(torch.randn(3, 8, 8, dtype=torch.float64), range(3), strict=True):
        rows = slice(8 * head, 8 * head + 8)
        queries.weight[rows] = matrix @ queries.weight[rows]
        keys.weight[rows] = torch.linalg.inv(matrix).T @ keys.weight[rows]
    torch.testing.assert_close(measured(), before)
