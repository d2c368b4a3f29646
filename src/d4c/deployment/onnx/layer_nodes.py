"""Emits layers as ONNX nodes: each function takes a module of the PyTorch model and its name there.

Linear layers are in `linear_nodes`.
"""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import nn

from d4c.deployment.onnx.forms import fake_quantized
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.linear_nodes import dequantized_weight
from d4c.deployment.onnx.token_table import narrow_embedding
from d4c.models.layers import QuickGELU
from d4c.quantization.layers.quantized_activations import LEAST_PEAK, QuantizedAdd, QuantizedAvgPool2d, QuantizedMatMul
from d4c.quantization.layers.quantized_product import QuantizedConv2d
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding


def conv(g: Graph, x: str, layer: nn.Module, name: str) -> str:
    """Emit a convolution; the bias of a quantized one lies on steps of the accumulator, to which runtimes round it."""
    assert isinstance(layer, nn.Conv2d | QuantizedConv2d)
    if isinstance(layer, QuantizedConv2d):
        weight = dequantized_weight(g, {name: (layer, 1.0)}, 0, name)
        operands = [fake_quantized(g, x, layer.input_quantizer, name), weight]
    else:
        operands = [x, g.constant(f"{name}/weight", layer.weight)]
    if layer.bias is not None:
        operands.append(g.constant(f"{name}/bias", layer.bias))
    vertical, horizontal = (int(size) for size in layer.padding)
    pads = [vertical, horizontal, vertical, horizontal]
    product = g.node("Conv", operands, name, strides=list(layer.stride), pads=pads)
    return g.record(name, (x,), name, product if isinstance(layer, QuantizedConv2d) else None)


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
    return g.record(name, (a, b), name, product)


def add(g: Graph, a: str, b: str, layer: nn.Module, name: str) -> str:
    """Emit the sum of two activations; ONNX Runtime adds integers where both and the result are quantized."""
    operands = [a, b]
    if isinstance(layer, QuantizedAdd):
        operands = [fake_quantized(g, a, layer.a, f"{name}.a"), fake_quantized(g, b, layer.b, f"{name}.b")]
    g.node("Add", operands, name)
    return g.record(name, (a, b), name)


def average_pool(g: Graph, x: str, layer: nn.Module, name: str) -> str:
    """Emit the average over adjacent squares; nothing where a block keeps its size."""
    size = pool_factor(layer)
    if size == 1:
        return x
    values = fake_quantized(g, x, layer.input_quantizer, name) if isinstance(layer, QuantizedAvgPool2d) else x
    g.node("AveragePool", [values], name, kernel_shape=[size, size], strides=[size, size])
    return g.record(name, (x,), name)


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
    return g.record(name, (x,), name)


def activation(g: Graph, x: str, layer: nn.Module, name: str) -> str:
    """Emit QuickGELU, as the nodes that ONNX Runtime fuses, or GELU, exact or by tanh."""
    if isinstance(layer, QuickGELU):
        gate = g.node("Sigmoid", [g.node("Mul", [x, g.scalar(1.702)], f"{name}/scaled")], f"{name}/gate")
        g.node("Mul", [x, gate], name)
    else:
        assert isinstance(layer, nn.GELU)
        g.node("Gelu", [x], name, approximate=layer.approximate)
    return g.record(name, (x,), name)


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
    return g.record(name, (x,), name)


def embedding(g: Graph, tokens: str, layer: nn.Module, name: str) -> str:
    """Emit the rows of the token table; of a quantized one, 8-bit rows times the scale of each.

    Rows that are all zero are not stored: one row of zeros at the end represents them.
    """
    assert isinstance(layer, nn.Embedding | QuantizedEmbedding)
    if isinstance(layer, nn.Embedding) and not g.narrow_table:
        g.node("Gather", [g.constant(f"{name}/weight", layer.weight), tokens], name)
        return g.record(name, (tokens,), name)
    used = layer.used_rows() if isinstance(layer, QuantizedEmbedding) else layer.weight.any(1)
    kept, rows = torch.cat([used.nonzero()[:, 0], (~used).nonzero()[:1, 0]]), tokens
    if not bool(used.all()):
        row_of_token = torch.where(used, used.cumsum(0) - 1, used.sum()).to(torch.int32)
        rows = g.node("Gather", [g.constant(f"{name}/row_of_token", row_of_token), tokens], f"{name}/rows")
    if g.narrow_table:
        narrow_embedding(g, rows, g.narrow_table.rows(kept), name)
        return g.record(name, (tokens,), name)
    assert isinstance(layer, QuantizedEmbedding)
    codes, scale = layer.codes[kept].to(torch.int8), layer.weight_scale[kept]
    picked = g.node("Gather", [g.constant(f"{name}/weight", codes), rows], f"{name}/codes")
    picked = g.node("Cast", [picked], f"{name}/codes_float", to=TensorProto.FLOAT)
    factor = g.node("Gather", [g.constant(f"{name}/scale", scale), rows], f"{name}/scales")
    g.node("Mul", [picked, factor], name)
    return g.record(name, (tokens,), name)
