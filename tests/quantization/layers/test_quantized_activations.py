"""Products, sums and pools of activations without weights."""

import torch
from torch import Tensor

from d4c.models.clip import CLIP
from d4c.models.layers import WeightedSum
from d4c.quantization.formats.scheme import QuantArgs, Scheme, Strategy
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_activations import QuantizedMatMul
from d4c.quantization.placement import default_overrides, make_plan


def quantized_product(bits: int, strategy: Strategy) -> QuantizedMatMul:
    """A product whose softmax is rounded over 0 .. 1, and values over -4 .. 4."""
    product = QuantizedMatMul(
        ActivationQuantizer(QuantArgs(bits, False, strategy)), ActivationQuantizer(QuantArgs(bits, False, "tensor"))
    )
    levels = 2**bits - 1
    product.a.set_range(torch.tensor(1 / levels), torch.tensor(0.0))
    product.b.set_range(torch.tensor(8 / levels), torch.tensor(float(levels // 2)))
    return product


def attention(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of a softmax, from such that attend to all tokens to such that attend to one, and values."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, 60, 50, generator=generator) * torch.logspace(-1, 1, 60)[:, None]
    return scores.softmax(-1), torch.randn(2, 3, 50, 16, generator=generator)


def test_a_product_by_row_is_computed_from_integers() -> None:
    a, v = attention()
    for bits in (4, 6):
        product = quantized_product(bits, "token")
        torch.testing.assert_close(product.integer_forward(a, v), product(a, v), rtol=1e-5, atol=1e-6)


def test_a_product_by_row_scales_with_each_row() -> None:
    a, v = attention()
    product, factors = quantized_product(4, "token"), 2.0 ** -torch.arange(60.0)[:, None]
    torch.testing.assert_close(product(a * factors, v), product(a, v) * factors)


def test_a_row_without_weight_gives_zero() -> None:
    a, v = attention()
    product = quantized_product(4, "token")
    assert product(torch.zeros_like(a), v).count_nonzero() == 0


def test_rows_of_their_own_range_lose_a_tenth_of_what_one_range_loses() -> None:
    a, v = attention()
    by_row, by_tensor = quantized_product(4, "token"), quantized_product(4, "tensor")
    for product in (by_row, by_tensor):
        product.b.enabled = False

    def error(product: QuantizedMatMul) -> float:
        return float((product(a, v) - a @ v).square().mean())

    errors = []
    for scale in torch.linspace(0.002, 1 / 15, 30):
        by_tensor.a.set_range(scale, torch.tensor(0.0))
        errors.append(error(by_tensor))
    assert error(by_row) < 0.1 * min(errors)


def test_below_eight_bits_softmax_is_rounded_by_row(demo_vit: CLIP) -> None:
    for scheme, track, strategy in (
        ("W4A4", "deployable", "token"),
        ("W4A8", "deployable", "tensor"),
        ("W4A4", "paper", "tensor"),
    ):
        plan = make_plan(demo_vit, Scheme.parse(scheme), track, default_overrides(demo_vit, track))  # type: ignore[arg-type]
        sums = [name for name, module in demo_vit.named_modules() if isinstance(module, WeightedSum)]
        assert {plan[name].inputs[0].strategy for name in sums if name in plan} == {strategy}
