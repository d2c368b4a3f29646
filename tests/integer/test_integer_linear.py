"""Integer products: the same numbers as the layers that they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d4c.errors import SettingError
from d4c.integer.codes import Codes, Rounding
from d4c.integer.integer_linear import IntegerLinear
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear


def quantized_linear(
    depth: int,
    outputs: int,
    weight_bits: int,
    activation_bits: int,
    seed: int,
    loud: tuple[int, ...] = (),
    class_token: bool = False,
) -> QuantizedLinear:
    torch.manual_seed(seed)
    quantizer = ActivationQuantizer(QuantArgs(activation_bits, False, "tensor"), depth, loud, class_token)
    scale = 4.0 / quantizer.args.qmax
    quantizer.set_range(torch.tensor(scale), torch.tensor(float(quantizer.args.qmax // 3)))
    for wide in (quantizer.loud, quantizer.class_token):
        if wide is not None:
            wide.set_range(torch.tensor(0.5), torch.tensor(20.0))
    layer = QuantizedLinear(nn.Linear(depth, outputs), QuantArgs(weight_bits, True, "channel"), quantizer)
    layer.calibrate_weight()
    layer.freeze()
    return layer


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 20), st.sampled_from([4, 6, 8]), st.sampled_from([4, 6, 8]), st.integers(1, 40)
)
def test_output_is_that_of_the_integer_reference(
    depth: int, outputs: int, weight_bits: int, activation_bits: int, rows: int
) -> None:
    layer = quantized_linear(depth, outputs, weight_bits, activation_bits, seed=rows)
    x = 3 * torch.randn(2, rows, depth)  # some of it beyond the range
    torch.testing.assert_close(IntegerLinear([layer])(x), layer.integer_forward(x), rtol=1e-5, atol=1e-5)


@settings(max_examples=20)
@given(
    st.integers(9, 70), st.sets(st.integers(0, 8), min_size=1, max_size=8), st.sampled_from([4, 8]), st.integers(1, 20)
)
def test_loud_channels_are_a_second_product(depth: int, loud: set[int], bits: int, rows: int) -> None:
    channels = tuple(sorted(loud))
    layer = quantized_linear(depth, 7, bits, bits, rows, channels)
    x = 3 * torch.randn(2, rows, depth)
    x[..., list(channels)] *= 30
    torch.testing.assert_close(IntegerLinear([layer])(x), layer.integer_forward(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("loud", [(), (0, 5)], ids=str)
@pytest.mark.parametrize("bits", [4, 6])
def test_a_class_token_is_read_by_the_same_weights(bits: int, loud: tuple[int, ...]) -> None:
    layer = quantized_linear(24, 7, bits, bits, 0, loud, class_token=True)
    x = 3 * torch.randn(2, 5, 24)
    x[:, 0] *= 20
    integer = IntegerLinear([layer])
    torch.testing.assert_close(integer(x), layer.integer_forward(x), rtol=1e-5, atol=1e-4)
    assert integer.class_token is not None
    assert integer.class_token.weight is integer.weight


def test_loud_channels_without_codes_are_refused() -> None:
    layer = IntegerLinear([quantized_linear(24, 5, 4, 8, 0, (3,))])
    with pytest.raises(SettingError, match="loud channels"):
        layer.product(layer.codes(torch.randn(3, 24)), torch.float32)


@pytest.mark.parametrize("bits", [4, 8])
def test_some_rows_are_those_of_the_whole_product(bits: int) -> None:
    layer = IntegerLinear([quantized_linear(24, 20, bits, 8, 0)])
    x, rows = torch.randn(3, 24), torch.tensor([2, 17])
    part = layer.rows(rows)(x)
    assert torch.equal(part[:, :2], layer(x)[:, rows])
    assert not part[:, 2:].any()


def test_layers_of_one_input_are_one_product() -> None:
    first, second = (quantized_linear(24, n, 4, 8, seed=n) for n in (5, 7))
    second.input_quantizer = first.input_quantizer
    x = torch.randn(3, 24)
    both = IntegerLinear([first, second])(x)
    torch.testing.assert_close(both, torch.cat([IntegerLinear([first])(x), IntegerLinear([second])(x)], 1))


@pytest.mark.parametrize(("bits", "share"), [(4, 0.5), (6, 1.0), (8, 1.0)])
def test_weights_take_half_a_byte_or_a_byte(bits: int, share: float) -> None:
    weight = IntegerLinear([quantized_linear(32, 10, bits, 8, seed=0)]).weight
    assert weight.element_size() * weight.numel() == share * 320


def test_centered_codes_are_whole_numbers_that_bf16_holds() -> None:
    quantizer = quantized_linear(8, 2, 8, 8, seed=0).input_quantizer
    x = 5 * torch.randn(100, 10)
    centered = Rounding([(Codes(quantizer), 1.0)], as_int8=False)(x).to(torch.bfloat16)
    assert torch.equal(centered.double(), quantizer.codes(x) - quantizer.zero_point.double())


def test_whole_codes_are_what_the_next_layer_reads() -> None:
    quantizers = [quantized_linear(8, 2, 8, bits, seed=0).input_quantizer for bits in (4, 8)]
    x = 5 * torch.randn(100, 20)
    both = Rounding([(Codes(quantizer), 1.0) for quantizer in quantizers], as_int8=True)(x).to(torch.int8)
    parts = [Codes(quantizer)(part) for quantizer, part in zip(quantizers, x.chunk(2, 1), strict=True)]
    assert torch.equal(both, torch.cat(parts, 1))


def test_one_scale_a_channel_is_refused() -> None:
    with pytest.raises(SettingError, match="deployable"):
        Codes(ActivationQuantizer(QuantArgs(8, False, "channel"), channels=4))
