"""Runtimes multiply in the order that `formats.pair_sums` takes for granted, and what is written fits in it.

Without VNNI the first laws say which pairs saturate; with it, only that products are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from d4c.deployment.export import Export
from d4c.deployment.onnx.tower_graphs import image_graph, text_graph
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.processor import VARIABLE, saturates
from d4c.runtime.sessions import onnxruntime_graph, openvino_graph

Array = NDArray[Any]
Product = Callable[[Array, Array], Array]
STEP = (2**15 - 1) / 100
"""Scale of the quantized output of a convolution, which ONNX Runtime computes in integers only with one."""


def quantize_and_dequantize(tensor: str, scale: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, "zero"], [f"{tensor}_codes"]),
        helper.make_node("DequantizeLinear", [f"{tensor}_codes", scale, "zero"], [f"{tensor}_values"]),
    ]


def computed(name: str, folder: Path, nodes: list[NodeProto], output: str, x: Array, codes: Array) -> Array:
    """What a runtime computes with activation codes x and weight codes."""
    constants = {"one": np.float32(1), "step": np.float32(STEP), "zero": np.uint8(0), "codes": codes.astype(np.int8)}
    graph = helper.make_graph(
        [
            *quantize_and_dequantize("x", "one"),
            helper.make_node("DequantizeLinear", ["codes", "one"], ["weight"]),
            *nodes,
        ],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    file = folder / "product.onnx"
    file.write_bytes(model.SerializeToString())
    opened = openvino_graph(file, 21) if name == "openvino" else onnxruntime_graph(file, 21, wide_sums=False)
    return opened(x.astype(np.float32))


def two_at_a_time(columns: int) -> Array:
    """Rows of codes with each pair of columns at 127."""
    pairs = list(itertools.combinations(range(columns), 2))
    rows = np.zeros((len(pairs), columns), np.int64)
    rows[np.arange(len(pairs))[:, None], pairs] = 127
    return rows


def in_order(filters: Array, padded: bool) -> Array:
    """Filters [O, C, h, w] as rows in the order of a runtime: by position, an odd number of channels padded or not."""
    by_position = filters.transpose(0, 2, 3, 1)
    if padded:
        by_position = np.pad(by_position, ((0, 0), (0, 0), (0, 0), (0, filters.shape[1] % 2)))
    return by_position.reshape(len(filters), -1)


@pytest.fixture(params=["onnxruntime", "openvino"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A runtime on this processor, whatever the environment says of it."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return str(request.param)


@pytest.mark.parametrize("columns", [7, 16])
@pytest.mark.parametrize("rows", [1, 50])
def test_columns_of_linear_layers_meet_two_by_two(
    rows: int, columns: int, name: str, tmp_path: Path, saturating_product: Product
) -> None:
    x, codes = np.full((1, rows, columns), 255), two_at_a_time(columns)
    y = computed(name, tmp_path, [helper.make_node("MatMul", ["x_values", "weight"], ["y"])], "y", x, codes.T)
    assert np.array_equal(y[0], saturating_product(x[0], codes) if saturates(name) else x[0] @ codes.T)


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 2, 2), (8, 1, 1)], ids=str)
def test_channels_of_convolutions_meet_two_by_two(
    shape: tuple[int, int, int], name: str, tmp_path: Path, saturating_product: Product
) -> None:
    """One position after the other; OpenVINO pads an odd number of channels."""
    filters = two_at_a_time(int(np.prod(shape))).reshape(-1, *shape)
    nodes = [
        helper.make_node("Conv", ["x_values", "weight"], ["product"], kernel_shape=shape[1:]),
        helper.make_node("Relu", ["product"], ["y"]),
        *quantize_and_dequantize("y", "step"),
    ]
    y = computed(name, tmp_path, nodes, "y_values", np.full((1, *shape), 255), filters)
    rows = in_order(filters, padded=name == "openvino")
    x = np.full((1, rows.shape[1]), 255)
    expected = saturating_product(x, rows) if saturates(name) else x @ rows.T
    assert np.abs(y.reshape(1, -1) - expected).max() <= STEP


def weights(graph: GraphProto) -> Iterator[tuple[str, Array]]:
    """Rows of 8-bit codes that each product of a graph reads, in every order in which runtimes read them."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    writer = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        source = writer.get(node.input[1]) if node.op_type in ("MatMul", "Conv") else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        joined = writer.get(source.input[0])
        if joined is not None and joined.op_type != "Concat":
            continue  # a product of two activations, unsigned both
        parts = [source.input[0]] if joined is None else joined.input
        for codes in (numpy_helper.to_array(constants[part]).astype(np.int64) for part in parts):
            if codes.ndim == 2:
                yield node.name, codes.T
                continue
            for padded in (False, True)[: 1 + codes.shape[1] % 2]:
                yield node.name, in_order(codes, padded)


def test_no_pair_of_an_exported_tower_saturates(
    exported: tuple[QuantizedCLIP, Export], saturating_product: Product
) -> None:
    """Each row, with the activations that make its sums of pairs as large and as small as they get."""
    products, largest = 0, 0
    for graph in (image_graph(exported[0], unpacked=True), text_graph(exported[0], unpacked=True)):
        for name, rows in weights(graph.model("0").graph):
            products, largest = products + 1, max(largest, int(rows.max()))
            x = 255 * np.stack([rows > 0, rows < 0], 1)
            assert np.array_equal(saturating_product(x, rows[:, None]), x @ rows[:, :, None]), name
    assert products >= sum(isinstance(x, QuantizedLinear | QuantizedConv2d) for x in exported[0].layers().values())
    assert largest > 64
