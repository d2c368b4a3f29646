"""The simulation in floating point equals the integer arithmetic that it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_activations import QuantizedAdd, QuantizedAvgPool2d, QuantizedMatMul
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear, check_int32
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding, QuantizedLayer
from d4c.quantization.ranges.observer import Observer

bit_widths = st.integers(2, 8)
seeds = st.integers(0, 10_000)
# How the inputs lie: their sign, none at all, one value, and far beyond what calibration saw.
kinds = st.sampled_from(["mixed", "positive", "negative", "zero", "constant", "beyond"])
many = settings(max_examples=40, deadline=None)


def values(kind: str, *shape: int) -> tuple[Tensor, Tensor]:
    """What calibration sees and what comes afterwards."""
    x = torch.randn(shape)
    seen = {
        "mixed": x,
        "positive": x.abs(),
        "negative": -x.abs(),
        "zero": torch.zeros(shape),
        "constant": torch.full(shape, 0.3),
        "beyond": x,
    }[kind]
    return seen, 50 * x if kind == "beyond" else seen


def calibrated(bits: int, seen: Tensor) -> ActivationQuantizer:
    args = QuantArgs(bits, False, "tensor")
    observer = Observer(args, "test")
    observer.add(seen)
    quantizer = ActivationQuantizer(args)
    quantizer.set_range(*observer.finish())
    return quantizer


def assert_close(actual: Tensor, expected: Tensor, terms: Tensor) -> None:
    """Equal to float32 rounding of the sum of absolute terms of each output."""
    assert actual.shape == expected.shape
    assert bool(((actual - expected).abs() <= 2e-6 * terms + 1e-30).all())


def reach(layer: QuantizedLinear | QuantizedConv2d, x: Tensor) -> Tensor:
    """Sum of absolute terms of each output: the yardstick of its rounding."""
    quantized = layer.input_quantizer(x)
    bias = None if layer.bias is None else layer.bias.abs()
    # The offset by the zero point is part of what is summed.
    span = quantized.abs() + layer.input_quantizer.scale * layer.input_quantizer.zero_point
    wide = layer.weight.abs() + layer.weight_scale * layer.weight_zero_point
    return layer.product(span, wide, bias) + 1e-6


@given(bit_widths, bit_widths, st.booleans(), kinds, st.booleans(), st.integers(1, 33), st.integers(1, 9), seeds)
@many
def test_linear(
    weight_bits: int, bits: int, symmetric: bool, kind: str, bias: bool, inputs: int, outputs: int, seed: int
) -> None:
    torch.manual_seed(seed)
    source = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    seen, x = values(kind, 2, 5, inputs)
    layer = QuantizedLinear(source, QuantArgs(weight_bits, symmetric, "channel"), calibrated(bits, seen))
    layer.calibrate_weight()
    assert_close(layer.integer_forward(x), layer(x), reach(layer, x))


@given(
    bit_widths,
    bit_widths,
    st.booleans(),
    kinds,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.booleans(),
    seeds,
)
@many
def test_convolution(
    weight_bits: int,
    bits: int,
    symmetric: bool,
    kind: str,
    kernel: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
    bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    source = nn.Conv2d(3, 4, kernel, stride, padding, bias=bias).requires_grad_(False)
    seen, x = values(kind, 2, 3, 6, 5)
    layer = QuantizedConv2d(source, QuantArgs(weight_bits, symmetric, "channel"), calibrated(bits, seen))
    layer.calibrate_weight()
    assert_close(layer.integer_forward(x), layer(x), reach(layer, x))


@given(bit_widths, bit_widths, kinds, kinds, st.integers(1, 30), seeds)
@many
def test_product_of_activations(a_bits: int, b_bits: int, kind_a: str, kind_b: str, depth: int, seed: int) -> None:
    torch.manual_seed(seed)
    (seen_a, a), (seen_b, b) = values(kind_a, 2, 3, 4, depth), values(kind_b, 2, 3, depth, 5)
    product = QuantizedMatMul(calibrated(a_bits, seen_a), calibrated(b_bits, seen_b))
    assert_close(product.integer_forward(a, b), product(a, b), span(product.a, a) @ span(product.b, b) + 1e-6)


def span(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """Sum of the absolute terms of a quantized value."""
    return quantizer(x).abs() + quantizer.scale * quantizer.zero_point


@given(bit_widths, bit_widths, kinds, kinds, seeds)
@many
def test_sum_of_activations(a_bits: int, b_bits: int, kind_a: str, kind_b: str, seed: int) -> None:
    torch.manual_seed(seed)
    (seen_a, a), (seen_b, b) = values(kind_a, 2, 3, 4, 5), values(kind_b, 2, 3, 4, 5)
    add = QuantizedAdd(calibrated(a_bits, seen_a), calibrated(b_bits, seen_b))
    assert_close(add.integer_forward(a, b), add(a, b), span(add.a, a) + span(add.b, b) + 1e-6)


@given(bit_widths, kinds, st.integers(1, 3), st.integers(3, 8), st.integers(3, 8), seeds)
@many
def test_average_pool(bits: int, kind: str, size: int, height: int, width: int, seed: int) -> None:
    """Borders that fill no square are left out, as in PyTorch."""
    torch.manual_seed(seed)
    seen, x = values(kind, 2, 3, height, width)
    pool = QuantizedAvgPool2d(nn.AvgPool2d(size), calibrated(bits, seen))
    terms = F.avg_pool2d(span(pool.input_quantizer, x), size)
    assert torch.equal(pool(x), nn.AvgPool2d(size)(pool.input_quantizer(x)))
    assert_close(pool.integer_forward(x), pool(x), terms + 1e-6)


@given(bit_widths, st.integers(1, 20), st.integers(1, 20), seeds)
@many
def test_token_table(bits: int, rows: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = QuantizedEmbedding(nn.Embedding(rows, width).requires_grad_(False), QuantArgs(bits, True, "channel"))
    layer.calibrate_weight()
    tokens = torch.randint(rows, (3, 4))
    assert torch.equal(layer.integer_forward(tokens), layer(tokens))


def linear(symmetric: bool = True, bits: int = 4) -> QuantizedLinear:
    source = nn.Linear(24, 6).requires_grad_(False)
    layer = QuantizedLinear(source, QuantArgs(bits, symmetric, "channel"), calibrated(8, torch.randn(10, 24)))
    layer.calibrate_weight()
    return layer


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_the_weight_is_what_its_codes_stand_for(symmetric: bool) -> None:
    layer = linear(symmetric)
    meant = (layer.codes.double() - layer.weight_zero_point.double()) * layer.weight_scale.double()
    assert torch.equal(layer.weight, meant.float())
    assert layer.weight_args.qmin <= int(layer.codes.min()) <= int(layer.codes.max()) <= layer.weight_args.qmax


def test_rounding_to_nearest_is_off_by_at_most_half_a_step_where_nothing_is_clipped() -> None:
    layer = linear()
    clipped = (layer.codes == layer.weight_args.qmin) | (layer.codes == layer.weight_args.qmax)
    off = (layer.weight - layer.source_weight()).abs() / layer.weight_scale
    assert bool((off <= 0.5001)[~clipped].all())


def test_an_output_that_is_all_zero_stays_zero() -> None:
    source = nn.Linear(8, 3, bias=False).requires_grad_(False)
    source.weight[1] = 0
    layer = QuantizedLinear(source, QuantArgs(4, True, "channel"), calibrated(8, torch.randn(9, 8)))
    layer.calibrate_weight()
    assert bool((layer(torch.randn(5, 8))[:, 1] == 0).all())


def test_a_token_row_keeps_its_largest_value() -> None:
    table = nn.Embedding(7, 12).requires_grad_(False)
    layer = QuantizedEmbedding(table, QuantArgs(8, True, "channel"))
    layer.calibrate_weight()
    assert torch.allclose(layer.weight.abs().amax(1), table.weight.abs().amax(1))


def test_one_scale_per_channel_has_no_integer_form() -> None:
    quantizer = ActivationQuantizer(QuantArgs(8, False, "channel"), 24)
    layer = QuantizedLinear(nn.Linear(24, 6).requires_grad_(False), QuantArgs(4, False, "channel"), quantizer)
    layer.calibrate_weight()
    with pytest.raises(SettingError, match="track='deployable'"):
        layer.integer_forward(torch.randn(2, 24))


def test_a_sum_beyond_int32_is_refused() -> None:
    check_int32(torch.tensor([2.0**31 - 1, -(2.0**31) + 1], dtype=torch.float64))
    with pytest.raises(SettingError, match="int32 accumulator"):
        check_int32(torch.tensor([2.0**31], dtype=torch.float64))
    wide = 70_000  # 255 * 127 * 70,000 > 2^31
    layer = QuantizedLinear(
        nn.Linear(wide, 1, bias=False).requires_grad_(False),
        QuantArgs(8, True, "channel"),
        calibrated(8, torch.rand(100)),
    )
    layer.set_codes(torch.full((1, wide), 127))
    with pytest.raises(SettingError, match="int32 accumulator"):
        layer.integer_forward(torch.ones(1, wide))


def test_a_frozen_layer_has_no_float_weights() -> None:
    layer = linear()
    before = layer(torch.ones(24))
    layer.freeze()
    assert torch.equal(layer(torch.ones(24)), before)
    with pytest.raises(SettingError, match="quantize the float CLIP"):
        layer.source_weight()


def frozen_conv(weight_bits: int, bits: int, symmetric: bool = True) -> tuple[QuantizedConv2d, Tensor]:
    """A calibrated and frozen convolution whose first channel has no weights, and the bias that it had before."""
    source = nn.Conv2d(3, 5, 3).requires_grad_(False)
    source.weight[0] = 0
    layer = QuantizedConv2d(source, QuantArgs(weight_bits, symmetric, "channel"), calibrated(bits, torch.randn(99)))
    layer.calibrate_weight()
    layer.freeze()
    assert source.bias is not None
    return layer, source.bias


@given(bit_widths, bit_widths, seeds)
@many
def test_the_bias_of_a_convolution_lies_on_the_steps_of_its_accumulator(weight_bits: int, bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer, before = frozen_conv(weight_bits, bits)
    assert layer.bias is not None
    step = layer.input_quantizer.scale.double() * layer.weight_scale.flatten().double()
    added = layer.bias.double() / step
    assert bool(((added - added.round()).abs() <= 1e-6 * added.abs()).all())
    assert bool(((layer.bias - before).abs() <= 0.50001 * step).all())
    assert float(layer.bias[0]) == pytest.approx(float(before[0]), rel=1e-6)
    again = layer.bias.clone()
    layer.freeze()
    assert torch.equal(layer.bias, again)


@pytest.mark.parametrize("small", [1e-6, 1e-8, 1e-12])
def test_the_bias_of_a_channel_that_is_switched_off_fits_the_accumulator(small: float) -> None:
    source = nn.Conv2d(3, 5, 3).requires_grad_(False)
    source.weight[1] *= small
    x = torch.randn(2, 3, 8, 8)
    layer = QuantizedConv2d(source, QuantArgs(8, True, "channel"), calibrated(8, x))
    layer.calibrate_weight()
    before = layer(x)
    layer.freeze()
    assert layer.bias is not None
    steps = layer.bias.double() / (layer.input_quantizer.scale.double() * layer.weight_scale.flatten().double())
    assert float(steps.abs().max()) < 2**31
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-4)
    frozen = layer.codes.clone()
    layer.freeze()
    assert torch.equal(layer.codes, frozen)


def test_the_bias_of_a_published_convolution_stays_as_it_is() -> None:
    layer, before = frozen_conv(4, 4, symmetric=False)
    assert layer.bias is not None
    assert torch.equal(layer.bias, before)


def test_freezing_keeps_no_reference_to_the_float_weights() -> None:
    layer = linear()
    layer.freeze()
    assert not any(torch.is_tensor(v) for v in vars(layer).values())
    assert isinstance(layer, QuantizedLayer)
