"""Turns linear layers of a graph in OpenVINO into convolutions of width 1, for x86 processors without VNNI.

There OpenVINO multiplies the integers of a linear layer by oneDNN's general product, which takes as long as float32 or
longer, while convolutions have kernels that take less than half the time. Both compute the same sums, and add products
in the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

ELEMENTWISE = {"Add", "Convert", "FakeQuantize", "Gelu", "Multiply", "Sigmoid", "Subtract"}
"""What may lie between two layers of an MLP, with scalars as its other inputs."""
Order = tuple[int, int, int]


@dataclass(frozen=True)
class _Linear:
    """A product of activations [batch, rows, K] and dequantized integers [K, N].

    Args:
        product: The MatMul.
        codes: Its weights as int8.
        scale: Scale of each column.
    """

    product: Any
    codes: Any
    scale: Any

    @property
    def channels_first(self) -> Order:
        """Order of axes before the convolution, whose rows are the samples where each sample has one row."""
        rows = self.product.get_output_partial_shape(0)[1]
        return (1, 2, 0) if rows.is_static and rows.get_length() == 1 else (0, 2, 1)

    @property
    def channels_last(self) -> Order:
        """Order of axes that undoes `channels_first`."""
        return (2, 0, 1) if self.channels_first == (1, 2, 0) else (0, 2, 1)

    @property
    def end(self) -> Any:
        """The node that adds or subtracts the bias, or the product where there is none."""
        users = _users(self.product)
        if len(users) == 1 and users[0][1] == 0 and users[0][0].get_type_name() in ("Add", "Subtract"):
            sum_node = users[0][0]
            if sum_node.input_value(1).get_node().get_type_name() == "Constant":
                return sum_node
        return self.product


def use_convolutions(model: Any) -> int:
    """Turn the quantized linear layers of a graph of d4c into convolutions, in place.

    Axes are permuted before and after each, but not between two layers with nothing but an activation in between.
    Layers over a matrix [batch, K], such as the last projection, stay as they are.

    Args:
        model: An `openvino.Model` that is not compiled.

    Returns:
        The number of layers that are convolutions now.
    """
    from openvino import opset13 as ops

    layers = {linear.product.get_name(): linear for linear in _linear_layers(model)}
    chains = {name: _readers(linear, layers) for name, linear in layers.items()}
    before: dict[tuple[str, int, Order], Any] = {}
    cancelled = []
    for name, linear in layers.items():
        source = linear.product.input_value(0)
        key = source.get_node().get_name(), source.get_index(), linear.channels_first
        before[key] = before.get(key) or ops.transpose(source, np.array(linear.channels_first))
        codes = ops.unsqueeze(ops.transpose(linear.codes, np.array([1, 0])), np.array(2))
        scale = ops.reshape(linear.scale, np.array([-1, 1, 1]), False)
        y = ops.convolution(before[key], ops.multiply(ops.convert(codes, "f32"), scale), [1], [0], [0], [1])
        y.set_friendly_name(linear.product.get_friendly_name())  # by which profiles and the check of an export know it
        end = linear.end
        if end is not linear.product:
            bias = ops.reshape(end.input_value(1), np.array([1, -1, 1]), False)
            y = ops.add(y, bias) if end.get_type_name() == "Add" else ops.subtract(y, bias)
        after = ops.transpose(y, np.array(linear.channels_last))
        end.output(0).replace(after.output(0))
        if any(name in readers for readers in chains.values()):
            cancelled.append(before[key])
        if chains[name]:
            cancelled.append(after)
    for transpose in cancelled:
        transpose.output(0).replace(transpose.input_value(0))
    model.validate_nodes_and_infer_types()
    return len(layers)


def _linear_layers(model: Any) -> Iterator[_Linear]:
    """The products by int8 weights, in order of execution."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_b"]:
            continue
        if node.get_output_partial_shape(0).rank.get_length() != 3:
            continue
        weight = node.input_value(1).get_node()
        if weight.get_type_name() != "Multiply" or weight.input_value(0).get_node().get_type_name() != "Convert":
            continue
        codes = weight.input_value(0).get_node().input_value(0)
        if codes.get_element_type().get_type_name() == "i8":
            yield _Linear(node, codes, weight.input_value(1))


def _users(node: Any) -> list[tuple[Any, int]]:
    """The nodes that read a node's output, and as which of their inputs."""
    return [(user.get_node(), user.get_index()) for user in node.output(0).get_target_inputs()]


def _readers(linear: _Linear, layers: Mapping[str, _Linear]) -> set[str]:
    """The layers that read what a layer gives, if all that lies in between acts on each element alone."""
    between = {linear.end.get_name(): linear.end}
    readers = set()
    open_ends = [linear.end]
    while open_ends:
        for user, position in _users(open_ends.pop()):
            name = user.get_name()
            if name in layers and position == 0 and layers[name].channels_first == linear.channels_first:
                readers.add(name)
            elif user.get_type_name() not in ELEMENTWISE:
                return set()
            elif name not in between:
                between[name] = user
                open_ends.append(user)
    for node in list(between.values())[1:]:
        for value in node.input_values():
            shape = value.get_partial_shape()
            is_scalar = shape.is_static and np.prod(list(shape.to_shape())) == 1
            if not is_scalar and value.get_node().get_name() not in between:
                return set()
    return readers
