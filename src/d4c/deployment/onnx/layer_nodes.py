"""Emits layers as ONNX nodes: each function takes a module of the PyTorch model and its name there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from d4c.deployment.onnx.forms import PAIRED_ZERO, fake_quantized, packed_weight, paired_codes, weight_codes
from d4c.deployment.onnx.graph import Graph, Layer
from d4c.deployment.onnx.token_table import narrow_embedding
from d4c.models.layers import QuickGELU
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_activations import LEAST_PEAK, QuantizedAdd, QuantizedAvgPool2d, QuantizedMatMul
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding

Product = nn.Linear | nn.Conv2d | QuantizedLinear | QuantizedConv2d
Scaled = tuple[Product, float]
"""A layer, and the factor of its output."""


def linear(g: Graph, x: str, layer: nn.Module, name: str, output: str | None = None, factor: float = 1.0) -> str:
    """Emit factor * (x W^T + b) over the last axis of x, as MatMul and Add(b), or Sub(-b) where W is quantized.

    Where shapes are static, ONNX Runtime turns MatMul and Add(b) into a float Gemm and dequantizes the weight in every
    run, which is slower than float. It leaves a subtraction alone. A float layer is faster with the addition, which
    runtimes fuse with what is around it. A patch embedding is a linear layer over flat
    patches, since ONNX Runtime computes a convolution in integers only if its output is quantized. Loud input channels
    are a second product, whose sum with the first one is the result.

    Args:
        g: The graph.
        x: Input of the layer.
        layer: A linear layer, or a convolution whose patches are rows of x.
        name: Name of the layer.
        output: Name of the result, by default that of the layer.
        factor: Factor of the result.

    Returns:
        The result.
    """
    assert isinstance(layer, Product)
    output = output or name
    product = _product(g, x, {name: (layer, factor)}, name, output)
    return _record(g, layer, name, (x,), output, product, factor)


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
    for part, (layer, factor) in layers.items():
        _record(g, layer, part, (x,), part, product, factor)
    return outputs


def conv(g: Graph, x: str, layer: nn.Module, name: str) -> str:
    """Emit a convolution; the bias of a quantized one lies on steps of the accumulator, to which runtimes round it."""
    assert isinstance(layer, nn.Conv2d | QuantizedConv2d)
    if isinstance(layer, QuantizedConv2d):
        weight = _weight(g, {name: (layer, 1.0)}, 0, name)
        operands = [fake_quantized(g, x, layer.input_quantizer, name), weight]
    else:
        operands = [x, g.constant(f"{name}/weight", layer.weight)]
    if layer.bias is not None:
        operands.append(g.constant(f"{name}/bias", layer.bias))
    vertical, horizontal = (int(size) for size in layer.padding)
    pads = [vertical, horizontal, vertical, horizontal]
    product = g.node("Conv", operands, name, strides=list(layer.stride), pads=pads)
    return _record(g, layer, name, (x,), name, product)


def matmul(g: Graph, a: str, b: str, layer: nn.Module, name: str) -> str:
    """Emit the product of two activations of an attention, quantized where the scheme says so."""
    if not isinstance(layer, QuantizedMatMul) or g.weights_only:
        return g.node("MatMul", [a, b], name)  # PyTorch fuses it with the softmax: no layer to compare with
    x, product = a, name
    if layer.by_row:
        peak = g.node("ReduceMax", [a, g.integers(-1)], f"{name}/peaks", keepdims=1)
        peak = g.node("Max", [peak, g.scalar(LEAST_PEAK)], f"{name}/divisors")
        x, product = g.node("Div", [a, peak], f"{name}/shares"), f"{name}/product"
    operands = [
        fake_quantized(g, x, layer.a, f"{name}.a", clip_values=True),
        fake_quantized(g, b, layer.b, f"{name}.b", clip_values=True),
    ]
    g.node("MatMul", operands, product)
    if layer.by_row:
        g.node("Mul", [product, peak], name)
    return _record(g, layer, name, (a, b), name, product)


def add(g: Graph, a: str, b: str, layer: nn.Module, name: str) -> str:
    """Emit the sum of two activations; ONNX Runtime adds integers where both and the result are quantized."""
    operands = [a, b]
    if isinstance(layer, QuantizedAdd):
        operands = [fake_quantized(g, a, layer.a, f"{name}.a"), fake_quantized(g, b, layer.b, f"{name}.b")]
    g.node("Add", operands, name)
    return _record(g, layer, name, (a, b), name)


def average_pool(g: Graph, x: str, layer: nn.Module, name: str) -> str:
    """Emit the average over adjacent squares; nothing where a block keeps its size."""
    size = pool_factor(layer)
    if size == 1:
        return x
    values = fake_quantized(g, x, layer.input_quantizer, name) if isinstance(layer, QuantizedAvgPool2d) else x
    g.node("AveragePool", [values], name, kernel_shape=[size, size], strides=[size, size])
    return _record(g, layer, name, (x,), name)


def pool_factor(layer: nn.Module) -> int:
    """Return the factor by which a pool shrinks each side."""
    if isinstance(layer, nn.Identity):
        return 1
    assert isinstance(layer, nn.AvgPool2d | QuantizedAvgPool2d)
    assert isinstance(layer.kernel_size, int)
    return layer.kernel_size


def layer_norm(g: Graph, x: str, layer: nn.LayerNorm, name: str) -> str:
    """Emit LayerNorm over the last axis, in floating point."""
    inputs = [x, g.constant(f"{name}/weight", layer.weight), g.constant(f"{name}/bias", layer.bias)]
    g.node("LayerNormalization", inputs, name, axis=-1, epsilon=layer.eps)
    return _record(g, layer, name, (x,), name)


def activation(g: Graph, x: str, layer: nn.Module, name: str) -> str:
    """Emit QuickGELU, as the nodes that ONNX Runtime fuses, or GELU, exact or by tanh."""
    if isinstance(layer, QuickGELU):
        gate = g.node("Sigmoid", [g.node("Mul", [x, g.scalar(1.702)], f"{name}/scaled")], f"{name}/gate")
        g.node("Mul", [x, gate], name)
    else:
        assert isinstance(layer, nn.GELU)
        g.node("Gelu", [x], name, approximate=layer.approximate)
    return _record(g, layer, name, (x,), name)


def batch_norm(g: Graph, x: str, layer: nn.Module, name: str) -> str:
    """Emit BatchNorm of a tower that is not quantized; nothing where it was folded into its convolution."""
    if isinstance(layer, nn.Identity):
        return x
    assert isinstance(layer, nn.BatchNorm2d)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    values = {"weight": layer.weight, "bias": layer.bias, "mean": layer.running_mean, "variance": layer.running_var}
    inputs = [x, *(g.constant(f"{name}/{key}", value) for key, value in values.items())]
    g.node("BatchNormalization", inputs, name, epsilon=layer.eps)
    return _record(g, layer, name, (x,), name)


def embedding(g: Graph, tokens: str, layer: nn.Module, name: str) -> str:
    """Emit the rows of the token table; of a quantized one, 8-bit rows times the scale of each.

    Rows that are all zero are not stored: one row of zeros at the end represents them.
    """
    assert isinstance(layer, nn.Embedding | QuantizedEmbedding)
    if isinstance(layer, nn.Embedding) and not g.narrow_table:
        g.node("Gather", [g.constant(f"{name}/weight", layer.weight), tokens], name)
        return _record(g, layer, name, (tokens,), name)
    used = layer.used_rows() if isinstance(layer, QuantizedEmbedding) else layer.weight.any(1)
    kept, rows = torch.cat([used.nonzero()[:, 0], (~used).nonzero()[:1, 0]]), tokens
    if not bool(used.all()):
        row_of_token = torch.where(used, used.cumsum(0) - 1, used.sum()).to(torch.int32)
        rows = g.node("Gather", [g.constant(f"{name}/row_of_token", row_of_token), tokens], f"{name}/rows")
    if g.narrow_table:
        narrow_embedding(g, rows, g.narrow_table.rows(kept), name)
        return _record(g, layer, name, (tokens,), name)
    assert isinstance(layer, QuantizedEmbedding)
    codes, scale = layer.codes[kept].to(torch.int8), layer.weight_scale[kept]
    picked = g.node("Gather", [g.constant(f"{name}/weight", codes), rows], f"{name}/codes")
    picked = g.node("Cast", [picked], f"{name}/codes_float", to=TensorProto.FLOAT)
    factor = g.node("Gather", [g.constant(f"{name}/scale", scale), rows], f"{name}/scales")
    g.node("Mul", [picked, factor], name)
    return _record(g, layer, name, (tokens,), name)


def _product(g: Graph, x: str, layers: Mapping[str, Scaled], name: str, output: str) -> str:
    """The node that multiplies for adjacent linear layers; sums with biases and loud channels go to `output`."""
    first, _ = next(iter(layers.values()))
    loud, op, attributes = None, "MatMul", dict[str, int]()
    if isinstance(first, QuantizedLinear | QuantizedConv2d) and g.weights_only:
        op = "MatMulNBits"
        operands, attributes = _packed_weight(g, x, layers, name)
    elif isinstance(first, QuantizedLinear | QuantizedConv2d):
        operands = [fake_quantized(g, x, first.input_quantizer, name), _weight(g, layers, 1, name)]
        if first.input_quantizer.loud is not None:
            loud = _loud_product(g, x, layers, first.input_quantizer, name)
    else:
        columns = [factor * layer.weight.flatten(1).t() for layer, factor in layers.values()]
        operands = [x, g.constant(f"{name}/weight", torch.cat(columns, 1))]
    quiet = output if loud is None else f"{name}/quiet"
    product = g.node(op, operands, quiet if first.bias is None else f"{name}/product", **attributes)
    if first.bias is not None:
        bias = torch.cat([factor * layer.bias for layer, factor in layers.values() if layer.bias is not None])
        if isinstance(first, nn.Linear | nn.Conv2d):
            g.node("Add", [product, g.constant(f"{name}/bias", bias)], quiet)
        else:
            g.node("Sub", [product, g.constant(f"{name}/negative_bias", -bias)], quiet)
    if loud is not None:
        g.node("Sub", [quiet, loud], output)
    return product


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
    weight = _weight(g, negative, 1, part, loud=True)
    g.products[part] = g.node("MatMul", [values, weight], f"{part}/product")
    return g.products[part]


def _weight(g: Graph, layers: Mapping[str, Scaled], axis: int, name: str, loud: bool = False) -> str:
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


def _record(
    g: Graph,
    layer: nn.Module,
    name: str,
    inputs: tuple[str, ...],
    output: str,
    product: str | None = None,
    factor: float = 1.0,
) -> str:
    g.layers[name] = Layer(inputs, output, factor)
    if product is not None and isinstance(layer, QuantizedLinear | QuantizedConv2d | QuantizedMatMul):
        g.products[name] = product
    return output
