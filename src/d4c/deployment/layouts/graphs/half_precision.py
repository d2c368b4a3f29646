"""Turns a graph with floating-point activations from float32 to float16, with float32 inputs and outputs."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from d4c.deployment.onnx.graph import Graph

LARGEST = float(np.finfo(np.float16).max)


def halve(g: Graph) -> None:
    """Change the constants and casts of a graph to float16, and cast its inputs and outputs."""
    for name, tensor in g.constants.items():
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            finite = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
            g.constants[name] = numpy_helper.from_array(finite.astype(np.float16), name)
    renamed = {info.name: f"{info.name}/half" for info in g.outputs}
    before = []
    for info in g.inputs:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            renamed[info.name] = f"{info.name}/half"
            before.append(_cast(info.name, renamed[info.name], TensorProto.FLOAT16))
    for node in g.nodes:
        for tensors in (node.input, node.output):
            tensors[:] = [renamed.get(name, name) for name in tensors]
        node.name = renamed.get(node.name, node.name)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    after = [_cast(renamed[info.name], info.name, TensorProto.FLOAT) for info in g.outputs]
    g.nodes[:] = [*before, *g.nodes, *after]
    g.products = {layer: renamed.get(node, node) for layer, node in g.products.items()}


def _cast(source: str, name: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [name], name=name, to=kind)
