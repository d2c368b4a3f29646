"""GPTQ leaves a smaller error than rounding to nearest."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import d4c
from d4c.models.clip import CLIP
from d4c.quantization.formats.affine import dequantize, quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.rounding.gptq import BLOCK, GPTQ, _Block, factorize
from d4c.quantization.rounding.gptq import _gram as gram

WEIGHTS, INPUTS = QuantArgs(4, True, "channel"), QuantArgs(8, False, "tensor")


def problem(seed: int, columns: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """A weight [O, K], a correlated Hessian [K, K], and a scale [O]."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator)
    x = torch.randn(200, columns, generator=generator) @ mix
    weight = torch.randn(8, columns, generator=generator)
    return weight, x.T @ x / 200 + 0.1 * torch.eye(columns), weight.abs().amax(1) / 7


def rounded(weight: Tensor, hessian: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric codes of 4 bits, and the adjusted weight."""
    return GPTQ().round(weight, *factorize(hessian), scale, torch.zeros(8), torch.tensor(-8), torch.tensor(7))


def literal(
    weight: Tensor, hessian: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor]:
    """The same as the paper writes it down: one column after the other, with the operations of `affine`."""
    order = hessian.diagonal().argsort(descending=True)
    weight = weight[:, order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        errors = torch.empty_like(weight[:, start:end])
        for k in range(start, end):
            codes[:, k] = quantize(weight[:, k], scale, zero_point, qmin, qmax)
            error = (weight[:, k] - dequantize(codes[:, k], scale, zero_point)) / factor[k, k]
            weight[:, k + 1 : end] -= torch.outer(error, factor[k, k + 1 : end])
            errors[:, k - start] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    back = order.argsort()
    return codes[:, back], weight[:, back]


def cost(codes: Tensor, weight: Tensor, hessian: Tensor, scale: Tensor) -> Tensor:
    error = dequantize(codes, scale[:, None], torch.zeros(8, 1)) - weight
    return ((error @ hessian) * error).sum()


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_error_is_below_that_of_rounding_to_nearest(seed: int) -> None:
    weight, hessian, scale = problem(seed)
    codes, _ = rounded(weight, hessian, scale)
    nearest = quantize(weight, scale[:, None], torch.zeros(8, 1), -8, 7)
    assert cost(codes, weight, hessian, scale) < cost(nearest, weight, hessian, scale)


@pytest.mark.parametrize("columns", [24, 128, 300])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
def test_it_is_the_literal_loop_bit_for_bit(columns: int, symmetric: bool) -> None:
    gptq = GPTQ()  # one for both problems: nothing of the first may be left in what they share
    for seed in (0, 1):
        weight, hessian, scale = problem(seed, columns)
        form: tuple[Tensor, int, int] = (torch.zeros(8), -8, 7) if symmetric else (torch.arange(8.0) * 2, 0, 15)
        order, factor = factorize(hessian)
        zero_point, *ends = form
        rounded_together = gptq.round(weight, order, factor, scale, zero_point, *map(torch.tensor, ends))
        for ours, theirs in zip(rounded_together, literal(weight, hessian, scale, *form), strict=True):
            assert torch.equal(ours, theirs)


def test_a_captured_step_does_not_wait_for_garbage_collection() -> None:
    gc.disable()
    try:
        block = _Block(4, 2, torch.device("cpu"))
        block(torch.ones(4, 2), torch.eye(4), torch.ones(2), -torch.ones(4, 2), torch.ones(4, 2))
        kept = weakref.ref(block)
        del block
        assert kept() is None
    finally:
        gc.enable()


def test_codes_are_integers_in_range_for_more_columns_than_a_block() -> None:
    weight, hessian, scale = problem(0, columns=300)
    codes, _ = rounded(weight, hessian, scale)
    assert torch.equal(codes, codes.round())
    assert codes.min() >= -8
    assert codes.max() <= 7


def test_codes_are_the_nearest_of_the_adjusted_weight() -> None:
    weight, hessian, scale = problem(2)
    codes, adjusted = rounded(weight, hessian, scale)
    assert torch.equal(codes, quantize(adjusted, scale[:, None], torch.zeros(8, 1), -8, 7))


def test_without_correlation_it_is_rounding_to_nearest() -> None:
    weight, _, scale = problem(1)
    codes, _ = rounded(weight, torch.eye(24), scale)
    assert torch.equal(codes, quantize(weight, scale[:, None], torch.zeros(8, 1), -8, 7))


def calibrated(quantizer: ActivationQuantizer) -> ActivationQuantizer:
    quantizer.set_range(torch.tensor(8 / 255), torch.tensor(128.0))
    return quantizer


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_solve_lowers_the_output_error_and_keeps_the_bias(kind: str) -> None:
    torch.manual_seed(0)
    source: nn.Linear | nn.Conv2d
    if kind == "linear":
        source, x = nn.Linear(16, 8), torch.randn(40, 10, 16) @ torch.randn(16, 16) / 4
        layer: QuantizedLinear | QuantizedConv2d = QuantizedLinear(
            source, WEIGHTS, calibrated(ActivationQuantizer(INPUTS))
        )
    else:
        source, x = nn.Conv2d(4, 8, 3, padding=1), nn.functional.avg_pool2d(torch.randn(12, 4, 16, 16), 3, 1, 1)
        layer = QuantizedConv2d(source, WEIGHTS, calibrated(ActivationQuantizer(INPUTS)))
    layer.calibrate_weight()
    with torch.no_grad():
        expected = source(layer.input_quantizer(x))
        before = (layer(x) - expected).square().mean()
        GPTQ().solve([layer], x)
        error = layer(x) - expected
    assert error.square().mean() < before
    assert layer.bias is not None
    assert source.bias is not None
    assert torch.equal(layer.bias, source.bias)


@pytest.mark.parametrize("spread", [0.0, 1e-3], ids=["constant", "nearly constant"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_inputs_that_hardly_vary_about_a_large_mean_are_no_obstacle(spread: float, bias: bool) -> None:
    """All columns of the inputs are then nearly one, and their products nearly of rank one."""
    source = nn.Linear(64, 4, bias=bias).requires_grad_(False)
    quantizer = ActivationQuantizer(INPUTS)
    quantizer.set_range(torch.tensor(2e-4), torch.tensor(0.0))
    x = 0.04 * torch.rand(64) + 0.01 + spread * torch.randn(5000, 64)
    layer = QuantizedLinear(source, WEIGHTS, quantizer)
    layer.calibrate_weight()
    expected = source(quantizer(x))
    before = (layer(x) - expected).square().mean()
    GPTQ().solve([layer], x)
    assert (layer(x) - expected).square().mean() < 0.5 * before


def test_inputs_in_parts_are_inputs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = QuantizedLinear(nn.Linear(16, 8), WEIGHTS, calibrated(ActivationQuantizer(INPUTS)))
    layer.calibrate_weight()
    x = torch.randn(40, 10, 16) @ torch.randn(16, 16) / 4 + 1
    whole = gram(layer, x)
    monkeypatch.setattr("d4c.quantization.rounding.gptq._ELEMENTS", 7 * x[0].numel())
    assert torch.allclose(gram(layer, x), whole, atol=1e-5)


def test_a_silent_input_keeps_the_weight() -> None:
    source = nn.Linear(6, 4, bias=False)
    layer = QuantizedLinear(source, QuantArgs(8, True, "channel"), calibrated(ActivationQuantizer(INPUTS)))
    layer.calibrate_weight()
    GPTQ().solve([layer], torch.zeros(20, 6))
    assert (layer.weight - source.weight).abs().max() <= layer.weight_scale.max() / 2


def test_the_text_tower_comes_closer_to_float(demo_vit: CLIP) -> None:
    """W4A8 on the demo model: GPTQ's embeddings are nearer to the float ones than those of rounding to nearest."""
    calibration = d4c.synthesize(demo_vit, "leaves", images=4)
    tokens = demo_vit.tokenize(["a photo of a dog.", "a drawing of an owl.", "an emoji of a red car."])
    reference = demo_vit.encode_text(tokens)
    scores = {}
    for kind in ("none", "gptq"):
        model = d4c.quantize(copy.copy(demo_vit), calibration, "W4A8", towers=("text",), reconstruction=kind)
        scores[kind] = torch.cosine_similarity(model.encode_text(tokens), reference).mean()
    assert scores["gptq"] > scores["none"]
