"""One product with all that follows it, in PyTorch's arithmetic and as the kernel computes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from d4c.compiled import can_compile
from d4c.integer.codes import Codes, Rounding
from d4c.integer.products import product
from d4c.models.layers import QuickGELU
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer

CASES = [
    (None, False, False),
    (QuickGELU(), True, False),
    (nn.GELU("tanh"), True, False),
    (nn.GELU(), False, False),
    (None, False, True),
]


def rounding_of(outputs: int) -> Rounding:
    """Of the next layer's 8-bit codes, from about -1.3 to 2.7."""
    quantizer = ActivationQuantizer(QuantArgs(8, False, "tensor"))
    quantizer.set_range(torch.tensor(4.0 / 255), torch.tensor(85.0))
    return Rounding([(Codes(quantizer), 0.5)], as_int8=True)


def inputs(rows: int, depth: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    codes = torch.randint(-128, 128, (rows, depth), dtype=torch.int8)
    weight = torch.randint(-127, 128, (outputs, depth), dtype=torch.int8)
    return codes, weight, torch.rand(outputs) * 1e-3, torch.randn(outputs)


@pytest.mark.parametrize(("act", "rounds", "adds"), CASES)
def test_a_product_is_that_of_whole_numbers(act: nn.Module | None, rounds: bool, adds: bool) -> None:
    codes, weight, scale, offset = inputs(5, 32, 12)
    rounding = rounding_of(12) if rounds else None
    residual = torch.randn(5, 12) if adds else None
    found = product(codes, weight, scale, offset, dtype=torch.float32, act=act, rounding=rounding, residual=residual)
    exact = (codes.double() @ weight.double().T) * scale + offset
    exact = act(exact) if act else exact
    if rounding:
        assert found.dtype == torch.int8
        assert torch.equal(found, rounding(exact.float()).to(torch.int8))
    else:
        expected = exact if residual is None else exact + residual
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not (torch.cuda.is_available() and can_compile()), reason="needs a GPU and Triton")
@pytest.mark.parametrize(("act", "rounds", "adds"), CASES)
@pytest.mark.parametrize("shape", [(37, 48, 33), (300, 784, 128), (2000, 768, 2304)])
def test_the_kernel_computes_the_same(
    shape: tuple[int, int, int], act: nn.Module | None, rounds: bool, adds: bool
) -> None:
    given = inputs(*shape)
    rounding = rounding_of(shape[2]) if rounds else None
    residual = torch.randn(shape[0], shape[2]) if adds else None
    expected = product(*given, dtype=torch.float32, act=act, rounding=rounding, residual=residual)
    moved = [tensor.cuda() for tensor in given]
    found = product(
        *moved,
        dtype=torch.float32,
        act=act,
        rounding=rounding.cuda() if rounding else None,
        residual=None if residual is None else residual.cuda(),
    )
    assert found.dtype == expected.dtype
    # Sums of int8 products are exact; a last bit of what follows may carry a value over a half.
    torch.testing.assert_close(found.cpu().float(), expected.float(), rtol=1e-5, atol=1.0 if rounds else 1e-4)
