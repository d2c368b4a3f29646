"""Emits linear layers as ONNX nodes: products of codes, and the sums with biases and loud channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import nn

from d4c.deployment.onnx.forms import PAIRED_ZERO, fake_quantized, packed_weight, paired_codes, weight_codes
from d4c.deployment.onnx.graph import Graph
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear

Product = nn.Linear | nn.Conv2d | QuantizedLinear | QuantizedConv2d
Scaled = tuple[Product, float]
"""A layer, and the factor of its output."""
LAST = np.iinfo(np.int64).max
"""Where a slice ends that takes all that is left."""


def linear(
    g: Graph,
    x: str,
    layer: nn.Module,
    name: str,
    output: str | None = None,
    factor: float = 1.0,
    one_row: bool = False,
) -> str:
    """Emit factor * (x W^T + b) over the last axis of x, as MatMul and Add(b), or Sub(-b) where W is quantized.

    Where shapes are static, ONNX Runtime turns MatMul and Add(b) into a float Gemm and dequantizes the weight in every
    run, which is slower than float. It leaves a subtraction alone. A float layer is faster with the addition, which
    runtimes fuse with what is around it. A patch embedding is a linear layer over flat
    patches, since ONNX Runtime computes a convolution in integers only if its output is quantized. Loud input channels
    are a second product, whose sum with the first one is the result; a class token with a range of its own is one, too,
    whose rows precede the others.

    Args:
        g: The graph.
        x: Input of the layer.
        layer: A linear layer, or a convolution whose patches are rows of x.
        name: Name of the layer.
        output: Name of the result, by default that of the layer.
        factor: Factor of the result.
        one_row: Whether x has one row, which is that of the class token where there is one.

    Returns:
        The result.
    """
    assert isinstance(layer, Product)
    output = output or name
    product = _product(g, x, {name: (layer, factor)}, name, output, one_row)
    return g.record(name, (x,), output, product, factor)


def joint_linear(g: Graph, x: str, layers: Mapping[str, Scaled], name: str) -> list[str]:
    """Emit linear layers that read one tensor through one quantizer as one product whose columns are split.

    For the few rows of one prompt a wide product takes less time than several. For hundreds of rows it does not, and
    the split copies them.

    Args:
        g: The graph.
        x: Input of the layers.
        layers: Layers with their factors, by name.
        name: Name of the product.

    Returns:
        The results, in the order of the layers.
    """
    product = _product(g, x, layers, name, name)
    sizes = g.integers(*(len(layer.weight) for layer, _ in layers.values()))
    outputs = g.split(name, sizes, list(layers))
    for part, (_, factor) in layers.items():
        g.record(part, (x,), part, product, factor)
    return outputs


def _product(
    g: Graph, x: str, layers: Mapping[str, Scaled], name: str, output: str, one_row: bool = False
) -> str | None:
    """The node that multiplies codes for adjacent linear layers; sums with biases and loud channels go to `output`."""
    first, _ = next(iter(layers.values()))
    rounded = isinstance(first, QuantizedLinear | QuantizedConv2d) and not g.weights_only
    quantizer = cast(ActivationQuantizer, first.input_quantizer) if rounded else None
    loud = quantizer is not None and quantizer.loud is not None
    quiet = f"{name}/quiet" if loud else output
    total = quiet if first.bias is None else f"{name}/product"
    product = None
    if quantizer is not None:
        product = _quiet_product(g, x, layers, quantizer, name, total, one_row)
    elif isinstance(first, nn.Linear | nn.Conv2d):
        columns = [factor * layer.weight.flatten(1).t() for layer, factor in layers.values()]
        g.node("MatMul", [x, g.constant(f"{name}/weight", torch.cat(columns, 1))], total)
    else:
        operands, attributes = _packed_weight(g, x, layers, name)
        product = g.node("MatMulNBits", operands, total, **attributes)
    if first.bias is not None:
        bias = torch.cat([factor * layer.bias for layer, factor in layers.values() if layer.bias is not None])
        if isinstance(first, QuantizedLinear | QuantizedConv2d):
            g.node("Sub", [total, g.constant(f"{name}/negative_bias", -bias)], quiet)
        else:
            g.node("Add", [total, g.constant(f"{name}/bias", bias)], quiet)
    if quantizer is not None and loud:
        g.node("Sub", [quiet, _loud_product(g, x, layers, quantizer, name)], output)
    return product


def _quiet_product(
    g: Graph,
    x: str,
    layers: Mapping[str, Scaled],
    quantizer: ActivationQuantizer,
    name: str,
    output: str,
    one_row: bool,
) -> str:
    """The node that multiplies the channels that are not loud, of all rows, or of those after the class token."""
    token = quantizer.class_token
    if token is None or one_row:
        values = fake_quantized(g, x, token or quantizer, name)
        return g.node("MatMul", [values, dequantized_weight(g, layers, 1, name)], output)
    part = f"{name}/class_token"
    first, others = _class_token_and_others(g, x)
    first, others = fake_quantized(g, first, token, part), fake_quantized(g, others, quantizer, name)
    weight = dequantized_weight(g, layers, 1, name)
    g.products[part] = g.node("MatMul", [first, weight], f"{part}/product")
    product = g.node("MatMul", [others, weight], f"{name}/other_rows/product")
    g.node("Concat", [g.products[part], product], output, axis=1)
    return product


def _class_token_and_others(g: Graph, x: str) -> tuple[str, str]:
    """The first row and all others of [batch, length, C], once for all layers that read them."""
    if x not in g.class_tokens:
        one, axis = g.integers(1), g.integers(1)
        first = g.node("Slice", [x, g.integers(0), one, axis], f"{x}/class_token")
        g.class_tokens[x] = first, g.node("Slice", [x, one, g.integers(LAST), axis], f"{x}/other_rows")
    return g.class_tokens[x]


def _packed_weight(g: Graph, x: str, layers: Mapping[str, Scaled], name: str) -> tuple[list[str], dict[str, int]]:
    """Operands and attributes of MatMulNBits for adjacent layers; all in 8 bits if one of them has more than 4."""
    codes, scales, bits = [], [], 4
    for layer, factor in layers.values():
        assert isinstance(layer, QuantizedLinear | QuantizedConv2d)
        codes.append(layer.codes.flatten(1))
        scales.append(factor * layer.weight_scale.flatten())
        bits = bits if layer.weight_args.num_bits <= 4 else 8
    array = torch.cat(codes).cpu().numpy().astype(np.int8)
    weight, scale, attributes = packed_weight(g, array, torch.cat(scales).cpu().numpy(), bits, name)
    return [x, weight, scale], attributes


def _loud_product(g: Graph, x: str, layers: Mapping[str, Scaled], quantizer: ActivationQuantizer, name: str) -> str:
    """The negative product of the loud channels alone, for which the weights of the other product are zero.

    It is subtracted for the same reason as a bias.
    """
    assert quantizer.loud is not None
    part = f"{name}/loud"
    channels = g.constant(f"{part}/channels", quantizer.loud_channels)
    values = fake_quantized(g, g.node("Gather", [x, channels], f"{part}/inputs", axis=-1), quantizer.loud, part)
    negative = {f"{key}/loud": (layer, -factor) for key, (layer, factor) in layers.items()}
    weight = dequantized_weight(g, negative, 1, part, loud=True)
    g.products[part] = g.node("MatMul", [values, weight], f"{part}/product")
    return g.products[part]


def dequantized_weight(g: Graph, layers: Mapping[str, Scaled], axis: int, name: str, loud: bool = False) -> str:
    """Dequantized weights with their output channels along `axis`, each stored in its own bits.

    Those of loud channels are zero, or with `loud` the only ones.
    """
    code_tensors, scales, zero_points = [], [], list[str]()
    paired = g.bytes_only and not g.unpacked and all(_pairs(layer, loud) for layer, _ in layers.values())
    for part, (layer, factor) in layers.items():
        assert isinstance(layer, QuantizedLinear | QuantizedConv2d)
        codes, quantizer = layer.codes, layer.input_quantizer
        if quantizer.loud is not None:
            channels = quantizer.loud_channels
            codes = codes.index_select(1, channels) if loud else codes.index_fill(1, channels, 0)
        codes = codes.flatten(1).t() if axis == 1 else codes
        array = codes.contiguous().cpu().numpy().astype(np.int8)
        store = paired_codes(g, array, part) if paired else weight_codes(g, array, layer.weight_args.num_bits, part)
        code_tensors.append(store)
        scales.append(factor * layer.weight_scale.flatten())
    joined = code_tensors[0]
    if len(code_tensors) > 1:
        joined = g.node("Concat", code_tensors, f"{name}/weight_codes", axis=axis)
    scale = g.constant(f"{name}/weight_scale", torch.cat(scales))
    if paired:
        middle = np.full(sum(len(part) for part in scales), PAIRED_ZERO, np.int8)
        zero_points.append(g.constant(f"{name}/weight_zero_point", middle))
    return g.node("DequantizeLinear", [joined, scale, *zero_points], f"{name}/weight_values", axis=axis)


def _pairs(layer: Product, loud: bool) -> bool:
    """Whether the codes of a layer, or of its loud channels, can be stored two to a byte along their inputs."""
    assert isinstance(layer, QuantizedLinear | QuantizedConv2d)
    inputs = len(layer.input_quantizer.loud_channels) if loud else layer.codes[0].numel()
    return isinstance(layer, QuantizedLinear) and layer.weight_args.num_bits <= 4 and inputs % 2 == 0
