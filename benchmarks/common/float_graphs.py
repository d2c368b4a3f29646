"""Float graphs as other exporters write them."""

from __future__ import annotations

import onnx
from onnx import numpy_helper


def add_biases(model: onnx.ModelProto) -> None:
    """Turn the subtraction of negative biases, which d4c writes, into additions, which tools know how to fuse."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Sub" and node.input[1].endswith("/negative_bias"):
            node.op_type, bias = "Add", constants[node.input[1]]
            bias.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(bias), bias.name))
