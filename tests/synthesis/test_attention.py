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


def test_in_bf16_the_gradient_is_right_to_its_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, 2, 150, 16, generator=generator).bfloat16().float().requires_grad_() for _ in range(3)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    wanted = torch.autograd.grad(F.scaled_dot_product_attention(*exact).square().sum(), exact)
    found = torch.autograd.grad(long_attention(*rounded).square().sum(), rounded)
    for a, b in zip(wanted, found, strict=True):
        assert b.dtype == torch.bfloat16
        assert float((a - b.float()).norm() / a.norm()) < 0.01
