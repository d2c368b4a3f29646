"""Attention of packed and of separate inputs against PyTorch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from d4c.models.layers import join_heads, split_heads
from d4c.synthesis.tower.ordered_attention import by_products, self_attention


def test_products_give_the_values_and_gradients_of_the_usual_attention() -> None:
    for queries in (1, 150):
        inputs = [torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (queries, 150, 150)]
        q, k, v = inputs
        weights = torch.randn(2, 3, queries, 8, dtype=torch.float64)
        plain, ours = F.scaled_dot_product_attention(q, k, v), by_products(q, k, v)
        torch.testing.assert_close(ours, plain)
        expected, found = (torch.autograd.grad((y * weights).sum(), inputs) for y in (plain, ours))
        torch.testing.assert_close(found, expected)


def test_in_bf16_products_are_right_to_its_digits() -> None:
    exact = [torch.randn(1, 2, 150, 16).bfloat16().float().requires_grad_() for _ in range(3)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    q, k, v = exact
    wanted = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).square().sum(), exact)
    found = torch.autograd.grad(by_products(*rounded).square().sum(), rounded)
    for a, b in zip(wanted, found, strict=True):
        assert b.dtype == torch.bfloat16
        assert float((a - b.float()).norm() / a.norm()) < 0.02


def test_packed_inputs_are_split_into_heads() -> None:
    qkv = torch.randn(2, 10, 3 * 24)
    parts = (split_heads(part, 4) for part in qkv.chunk(3, -1))
    torch.testing.assert_close(self_attention(qkv, 4), join_heads(by_products(*parts)))
