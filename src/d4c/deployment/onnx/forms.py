"""Writes quantized tensors in the forms that runtimes keep as integers.

An activation is QuantizeLinear to uint8, Clip of the codes below 8 bits, and DequantizeLinear: runtimes have no 4- or
6-bit activations, and without the Clip values outside the range would not be clamped. Operands of attention products
are clamped before QuantizeLinear instead, since a Clip of codes there keeps OpenVINO from fusing the attention.

A weight is an int8 tensor that DequantizeLinear reads with one scale per output channel. Up to 4 bits it is stored as
INT4 and cast, since DequantizeLinear of INT4 runs in floating point everywhere. 5 and 6 bits are stored as 4 + 2 and
joined by float arithmetic, since OpenVINO computes the bit-shifting form wrongly and reads no 2-bit tensors. ONNX
Runtime and OpenVINO fold all of it to int8 when they load.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from d4c.deployment.onnx.graph import Graph
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer

PAIRED_ZERO = 8
"""What zero is stored as in pairs of 4-bit codes."""
BLOCK = 32
"""Inputs that share a scale in MatMulNBits, as in the files that ONNX Runtime's kernels for WebGPU are made for."""


def fake_quantized(g: Graph, x: str, quantizer: ActivationQuantizer, name: str, *, clip_values: bool = False) -> str:
    """Emit the fake quantization of an activation; readers that share a quantizer share the nodes.

    Args:
        g: The graph.
        x: The activation.
        quantizer: Its quantizer.
        name: Prefix of the new tensors.
        clip_values: Below 8 bits, clamp values instead of codes, with the same result: the ends of the range round to
            the first and the last code.

    Returns:
        The dequantized activation, or the activation itself where only weights are quantized.
    """
    if g.weights_only:
        return x
    key = x, id(quantizer)
    if key not in g.quantized:
        # Scalars of rank 0: with shape [1] ONNX Runtime refuses integer pooling.
        scale = g.constant(f"{name}/input_scale", quantizer.scale)
        zero_point = g.constant(f"{name}/input_zero_point", quantizer.zero_point.to(torch.uint8))
        clip = quantizer.args.qmax < 255
        values = x
        if clip and clip_values:
            ends = torch.tensor([0, quantizer.args.qmax]) - quantizer.zero_point
            low, high = (g.scalar(float(end)) for end in ends * quantizer.scale)
            values = g.node("Clip", [x, low, high], f"{name}/input_clipped")
        codes = g.node("QuantizeLinear", [values, scale, zero_point], f"{name}/input_codes")
        if clip and not clip_values:
            low, high = _code(g, 0), _code(g, quantizer.args.qmax)
            codes = g.node("Clip", [codes, low, high], f"{name}/input_clipped")
        g.quantized[key] = g.node("DequantizeLinear", [codes, scale, zero_point], f"{name}/input")
    return g.quantized[key]


def _code(g: Graph, value: int) -> str:
    return g.constant(f"code/{value}", np.array(value, np.uint8))


def weight_codes(g: Graph, codes: NDArray[np.int8], bits: int, name: str) -> str:
    """Emit signed codes as an int8 tensor, stored in as few bits as runtimes read.

    Args:
        g: The graph.
        codes: The codes of a weight.
        bits: Their number of bits.
        name: Prefix of the new tensors.

    Returns:
        The int8 tensor.
    """
    if g.unpacked or bits > 6 or g.bytes_only:
        return g.constant(f"{name}/weight", codes)
    if bits <= 4:
        return g.node("Cast", [g.int4(f"{name}/weight", codes, True)], f"{name}/weight_int8", to=TensorProto.INT8)
    return _four_and_two(g, codes, name)


def paired_codes(g: Graph, codes: NDArray[np.int8], name: str) -> str:
    """Emit signed 4-bit codes plus `PAIRED_ZERO` as an int8 tensor that is stored as half as many bytes.

    Two shifts of bytes are folded at load in less memory than the float arithmetic of 5 and 6 bits takes; only OpenVINO
    computes them wrongly. Products with int8 weights are faster than those with uint8 on processors without VNNI.

    Args:
        g: The graph.
        codes: The codes of a weight, whose first axis is even.
        name: Prefix of the new tensors.

    Returns:
        The int8 tensor.
    """
    first, second = np.split((codes + PAIRED_ZERO).astype(np.uint8), 2)
    pair = g.constant(f"{name}/weight", first | second << 4)
    low = g.node("BitwiseAnd", [pair, _code(g, 15)], f"{name}/weight_first")
    high = g.node("BitShift", [pair, _code(g, 4)], f"{name}/weight_second", direction="RIGHT")
    joined = g.node("Concat", [low, high], f"{name}/weight_uint8", axis=0)
    return g.node("Cast", [joined], f"{name}/weight_int8", to=TensorProto.INT8)


def packed_weight(
    g: Graph, codes: NDArray[np.int8], scale: NDArray[np.float32], bits: int, name: str
) -> tuple[str, str, dict[str, int]]:
    """Store a weight as MatMulNBits reads it, for products with activations in floating point.

    Args:
        g: The graph.
        codes: Signed codes [N, K].
        scale: Scale of each output [N], which each block of `BLOCK` inputs repeats.
        bits: 4 or 8 bits to store a code in.
        name: Prefix of the new tensors.

    Returns:
        The tensors of codes and scales, and the attributes of the node.
    """
    outputs, inputs = codes.shape
    blocks = -(-inputs // BLOCK)
    middle = 1 << (bits - 1)  # what zero is stored as
    stored = np.full((outputs, blocks * BLOCK), middle, np.uint8)
    stored[:, :inputs] = codes.astype(np.int16) + middle
    if bits == 4:
        stored = stored[:, 0::2] | stored[:, 1::2] << 4
    weight = g.constant(f"{name}/weight", stored.reshape(outputs, blocks, -1))
    scales = g.constant(f"{name}/weight_scale", np.repeat(scale.astype(np.float32), blocks))
    return weight, scales, {"K": inputs, "N": outputs, "bits": bits, "block_size": BLOCK}


def _four_and_two(g: Graph, codes: NDArray[np.int8], name: str) -> str:
    """6 bits as 4 * high + low, with the low parts of two halves along the first even axis in one 4-bit tensor."""
    axis = next((axis for axis, size in enumerate(codes.shape) if size % 2 == 0), None)
    if axis is None:
        return g.constant(f"{name}/weight", codes)  # not a shape of any CLIP
    high, low = codes >> 2, codes & 3
    first, second = np.split(low, 2, axis)
    pair = g.int4(f"{name}/weight_low", first + 4 * second, False)
    pair = g.node("Cast", [pair], f"{name}/weight_pair", to=TensorProto.FLOAT)
    quarter = g.node("Mul", [pair, g.scalar(0.25)], f"{name}/weight_quarter")
    upper = g.node("Floor", [quarter], f"{name}/weight_second")
    shifted = g.node("Mul", [upper, g.scalar(4.0)], f"{name}/weight_second_shifted")
    lower = g.node("Sub", [pair, shifted], f"{name}/weight_first")
    low_part = g.node("Concat", [lower, upper], f"{name}/weight_low_float", axis=axis)
    high_part = g.int4(f"{name}/weight_high", high, True)
    high_part = g.node("Cast", [high_part], f"{name}/weight_high_float", to=TensorProto.FLOAT)
    high_part = g.node("Mul", [high_part, g.scalar(4.0)], f"{name}/weight_high_shifted")
    joined = g.node("Add", [high_part, low_part], f"{name}/weight_float")
    return g.node("Cast", [joined], f"{name}/weight_int8", to=TensorProto.INT8)
