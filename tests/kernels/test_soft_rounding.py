"""The rounding kernels against the same operations in PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from d4c.compiled import can_compile
from d4c.quantization.formats.affine import fake_quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.rounding.adaround import SoftRounding

pytestmark = pytest.mark.skipif(not (torch.cuda.is_available() and can_compile()), reason="needs a GPU and Triton")


def both(x: Tensor, gradient: Tensor, drop: bool, device: str) -> tuple[Tensor, ...]:
    """Value and gradients of x and of the scale, on a device."""
    given = x.to(device).requires_grad_()
    scale = torch.tensor(0.037, device=device, requires_grad=True)
    dropped = (torch.arange(x.numel()) % 3 == 0).view(x.shape).to(device) if drop else None
    y = fake_quantize(given, scale, torch.tensor(5.0, device=device), 0, 15, dropped)
    assert torch.equal(
        y, fake_quantize(given.detach(), scale.detach(), torch.tensor(5.0, device=device), 0, 15, dropped)
    )
    return tuple(part.cpu() for part in (y, *torch.autograd.grad((y * gradient.to(device)).sum(), [given, scale])))


@pytest.mark.parametrize("drop", [False, True], ids=["rounded", "dropped"])
@pytest.mark.parametrize("shape", [(7,), (3, 50, 4, 16), (300, 5000)])
def test_activations_are_rounded_as_in_pytorch(shape: tuple[int, ...], drop: bool) -> None:
    x, gradient = torch.randn(shape), torch.randn(shape)
    x.view(-1)[:5] = torch.tensor([0.0, 1e4, -1e4, 0.5 * 0.037, 1.5 * 0.037])
    for moved, weight in (
        (x, gradient),
        (x.transpose(0, -1), gradient.transpose(0, -1)),
        (x[..., ::2], gradient[..., ::2]),
    ):
        expected, found = (both(moved, weight, drop, device) for device in ("cpu", "cuda"))
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])
        torch.testing.assert_close(found[2], expected[2], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_soft_weights_are_those_of_pytorch(temperature: float) -> None:
    layer = QuantizedLinear(
        torch.nn.Linear(70, 33), QuantArgs(4, True, "channel"), ActivationQuantizer(QuantArgs(8, False, "tensor"))
    )
    layer.calibrate_weight()
    gradient = torch.randn(33, 70)
    found = []
    for device in ("cpu", "cuda"):
        moved = layer.to(device)
        rounding = SoftRounding(moved, torch.randn(33, 70, generator=torch.Generator().manual_seed(1)).to(device))
        rounding.temperature.fill_(temperature)
        weight = rounding()
        found.append((weight.cpu(), torch.autograd.grad((weight * gradient.to(device)).sum(), rounding.alpha)[0].cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
