"""Attention with an ordered gradient against PyTorch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from d4c.synthesis.attention import long_attention


def test_values_and_gradients_are_those_of_the_usual_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 150, 8)
    given = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3)]
    weights = torch.randn(shape, dtype=torch.float64, generator=generator)
    plain, ours = (function(*given) for function in (F.scaled_dot_product_attention, long_attention))
    torch.testing.assert_close(ours, plain)
    expected, found = (torch.autograd.grad((y * weights).sum(), given) for y in (plain, ours))
    torch.testing.assert_close(found, expected)


def test_what_the_process_demands_of_algorithms_is_left_alone() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    long_attention(x, x, x).sum().backward()
    assert torch.are_deterministic_algorithms_enabled() == before
