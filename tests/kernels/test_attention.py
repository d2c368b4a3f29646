"""The attention kernel against PyTorch's own attention in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.compiled import can_compile
from d4c.models.layers import join_heads, split_heads

pytestmark = pytest.mark.skipif(not (torch.cuda.is_available() and can_compile()), reason="needs a GPU and Triton")

SHAPES = [(3, 50, 12, 64), (2, 64, 4, 32), (2, 65, 2, 16), (2, 257, 16, 64), (1, 300, 2, 128)]
HEADS = [shape[2] for shape in SHAPES]


def packed(n: int, length: int, heads: int, d: int) -> tuple[Tensor, Tensor]:
    """q, k, v side by side and a gradient of the result, both in bf16."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(n, length, 3 * heads * d, generator=generator)
    gradient = torch.randn(n, length, heads * d, generator=generator)
    return qkv.cuda().bfloat16().requires_grad_(), gradient.cuda().bfloat16()


def usual(qkv: Tensor, heads: int) -> Tensor:
    q, k, v = (split_heads(part.float(), heads) for part in qkv.chunk(3, -1))
    return join_heads(F.scaled_dot_product_attention(q, k, v))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_usual_attention(shape: tuple[int, int, int, int]) -> None:
    from d4c.kernels.attention import self_attention

    qkv, gradient = packed(*shape)
    expected, found = usual(qkv, shape[2]), self_attention(qkv, shape[2])
    assert distance(found, expected) < 0.005
    (wanted,) = torch.autograd.grad(expected, qkv, gradient.float())
    (given,) = torch.autograd.grad(found, qkv, gradient)
    for a, b in zip(given.chunk(3, -1), wanted.chunk(3, -1), strict=True):
        assert distance(a, b) < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_a_gradient_is_the_same_in_every_run_compiled_or_not(shape: tuple[int, int, int, int]) -> None:
    from d4c.kernels.attention import self_attention

    qkv, gradient = packed(*shape)

    def run(function: object) -> Tensor:
        return torch.autograd.grad(function(qkv, shape[2]), qkv, gradient)[0]  # type: ignore[operator]

    first = run(self_attention)
    compiled = torch.compile(self_attention, dynamic=False)
    assert all(torch.equal(run(function), first) for function in [self_attention, compiled] * 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_are_the_rounded_values(shape: tuple[int, int, int, int]) -> None:
    from d4c.kernels.attention import forward

    qkv, _ = packed(*shape)
    values = usual(qkv.detach(), shape[2])
    grid = torch.tensor([40.0, 3.0, -100.0, 90.0], device="cuda")
    codes = forward(qkv.detach(), shape[2], shape[3] ** -0.5, grid)
    assert codes.dtype == torch.int8
    expected = (torch.round(values * 40) + 3).clamp(-100, 90)
    assert float((codes.float() - expected).abs().max()) <= 1
    assert float((codes.float() != expected).float().mean()) < 0.1
