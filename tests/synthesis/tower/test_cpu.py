"""What a CPU computes in another way is what PyTorch computes in the usual one."""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.synthesis.tower.cpu import Product, fold_batchnorms, onednn_has, product, use_products

DIGITS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}
size = st.integers(1, 40)


@pytest.fixture
def fresh() -> Iterator[None]:
    """No answer about the processor is remembered, before and behind a test that replaces it."""
    onednn_has.cache_clear()
    yield
    onednn_has.cache_clear()


def assert_close(found: Tensor, expected: Tensor) -> None:
    digits = DIGITS[found.dtype]
    torch.testing.assert_close(found, expected, rtol=digits, atol=digits * float(1 + expected.detach().abs().max()))


@settings(max_examples=40, deadline=None)
@given(size, size, size, st.booleans(), st.sampled_from(list(DIGITS)))
def test_values_and_gradients_are_those_of_linear(
    n: int, inputs: int, outputs: int, bias: bool, kind: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(n)
    weight = torch.randn(outputs, inputs, generator=g).to(kind)
    given_bias = torch.randn(outputs, generator=g).to(kind) if bias else None
    x = torch.randn(3, n, inputs, generator=g).to(kind).requires_grad_()
    slope = torch.randn(3, n, outputs, generator=g).to(kind)
    results = [(y := f(x, weight, given_bias), *torch.autograd.grad(y, x, slope)) for f in (product, F.linear)]
    for found, expected in zip(*results, strict=True):
        assert found.dtype == kind
        assert_close(found, expected)


def test_slices_of_tokens_and_spread_gradients_are_multiplied_as_they_read() -> None:
    x = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    for view in (x[:, :1], x.transpose(0, 1)):
        y = product(view, weight)
        assert_close(y, F.linear(view, weight))
        found, expected = (torch.autograd.grad(f(view, weight).sum(), x)[0] for f in (product, F.linear))
        assert_close(found, expected)


def test_on_other_processors_it_is_linear_itself(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    x, weight, bias = torch.randn(9, 33), torch.randn(17, 33), torch.randn(17)
    assert not onednn_has(torch.float32)
    assert torch.equal(product(x, weight, bias), F.linear(x, weight, bias))


def test_every_linear_layer_gives_way() -> None:
    tower = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False)))
    x = torch.randn(5, 3)
    expected = tower(x)
    use_products(tower)
    assert not any(isinstance(module, nn.Linear) for module in tower.modules())
    assert sum(isinstance(module, Product) for module in tower.modules()) == 2
    assert_close(tower(x), expected)


@torch.no_grad()
def test_batchnorm_becomes_part_of_the_convolution_before_it(demo_rn: CLIP) -> None:
    tower = copy.deepcopy(demo_rn.image)
    pixels = torch.randn(2, 3, demo_rn.image_size, demo_rn.image_size)
    expected = tower(pixels)
    fold_batchnorms(tower)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    torch.testing.assert_close(tower(pixels), expected, rtol=1e-5, atol=1e-5)
