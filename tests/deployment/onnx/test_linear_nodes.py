"""Loud channels and class tokens in ONNX: products of their own, exact in every runtime, in and out of range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

import d4c
from d4c.deployment.onnx import linear_nodes
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.parity import TowerParity
from d4c.deployment.onnx.parity_sessions import open_session
from d4c.models.clip import CLIP
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.quantized import QuantizedCLIP

Run = Callable[[bytes, dict[str, NDArray[Any]]], NDArray[Any]]
WIDTHS = pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 8), (6, 6), (4, 4)])
LOUD = [3, 30, 31]


def linear(
    weight_bits: int, activation_bits: int, bias: bool = True, loud: Sequence[int] = LOUD, class_token: bool = False
) -> QuantizedLinear:
    """Values from about -1 to 2, and from -10 to 100 in three loud channels; exact without VNNI instructions."""
    quantizer = ActivationQuantizer(QuantArgs(activation_bits, False, "tensor"), 48, loud, class_token)
    quantizer.set_range(torch.tensor(3.0 / quantizer.args.qmax), torch.tensor(float(quantizer.args.qmax // 3)))
    for wide in (quantizer.loud, quantizer.class_token):
        if wide is not None:
            wide.set_range(torch.tensor(110 / 255), torch.tensor(23.0))
    weights = QuantArgs(weight_bits, True, "channel", pairs_fit=weight_bits == 8)
    layer = QuantizedLinear(nn.Linear(48, 40, bias), weights, quantizer)
    layer.calibrate_weight()
    layer.freeze()
    return layer


def graph_of(
    layer: QuantizedLinear, shape: tuple[int | str, ...], unpacked: bool = False, one_row: bool = False
) -> bytes:
    g = Graph("layer", unpacked)
    y = linear_nodes.linear(g, g.input("x", TensorProto.FLOAT, shape), layer, "fc", one_row=one_row)
    g.output(g.node("Identity", [y], "y"), [f"y{i}" for i in range(len(shape))])
    model = g.model("0")
    onnx.checker.check_model(model)
    return model.SerializeToString()


@WIDTHS
@pytest.mark.parametrize("spread", [0.5, 8.0], ids=["in-range", "out-of-range"])
@pytest.mark.parametrize("unpacked", [False, True], ids=["packed", "unpacked"])
def test_the_sum_of_both_products_is_exact(
    weight_bits: int, activation_bits: int, spread: float, unpacked: bool, runtime: Run
) -> None:
    layer = linear(weight_bits, activation_bits)
    x = spread * torch.randn(2, 5, 48)
    x[..., LOUD] *= 40
    got = runtime(graph_of(layer, ("batch", 5, 48), unpacked), {"x": x.numpy()})
    want = layer.integer_forward(x)
    assert np.abs(got - want.numpy()).max() <= 2e-6 * float(want.abs().max())


@pytest.mark.parametrize("shape", [(2, 5, 48), ("batch", 5, 48), (5, 48), ("rows", 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@WIDTHS
def test_both_products_run_in_integers(
    shape: tuple[int | str, ...], bias: bool, weight_bits: int, activation_bits: int, tmp_path: Path
) -> None:
    model = graph_of(linear(weight_bits, activation_bits, bias), shape, False)
    open_session(model, tmp_path / "optimized.onnx")
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert nodes["MatMulIntegerToFloat"] == 2
    assert nodes.keys() <= {"MatMulIntegerToFloat", "QuantizeLinear", "Gather", "Sub", "Add", "Clip"}


def test_openvino_computes_both_in_integers() -> None:
    core = openvino.Core()
    model = core.read_model(graph_of(linear(8, 8), ("batch", 5, 48), False))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    primitives = [str(n["primitiveType"].value) for n in found if n["layerType"].value == "FullyConnected"]
    assert len(primitives) == 2
    assert all(primitive.endswith("I8") for primitive in primitives)


@WIDTHS
@pytest.mark.parametrize("loud", [(), LOUD], ids=["no loud channel", "loud channels"])
@pytest.mark.parametrize("spread", [0.5, 8.0], ids=["in-range", "out-of-range"])
def test_a_class_token_has_a_product_of_its_own(
    weight_bits: int, activation_bits: int, loud: list[int], spread: float, runtime: Run
) -> None:
    layer = linear(weight_bits, activation_bits, loud=loud, class_token=True)
    x = spread * torch.randn(2, 5, 48)
    x[:, 0] *= 20
    want = layer.integer_forward(x)
    got = runtime(graph_of(layer, ("batch", 5, 48)), {"x": x.numpy()})
    assert np.abs(got - want.numpy()).max() <= 2e-6 * float(want.abs().max())


def test_a_single_row_is_that_of_the_class_token(runtime: Run) -> None:
    layer, x = linear(4, 4, loud=(), class_token=True), 20 * torch.randn(2, 5, 48)
    want = layer.integer_forward(x)[:, :1]
    got = runtime(graph_of(layer, ("batch", 1, 48), one_row=True), {"x": x[:, :1].numpy()})
    assert np.abs(got - want.numpy()).max() <= 2e-6 * float(want.abs().max())


@pytest.mark.parametrize("shape", [(2, 5, 48), ("batch", 5, 48)], ids=str)
@WIDTHS
def test_the_class_token_and_the_other_rows_run_in_integers(
    shape: tuple[int | str, ...], weight_bits: int, activation_bits: int, tmp_path: Path
) -> None:
    model = graph_of(linear(weight_bits, activation_bits, loud=(), class_token=True), shape)
    open_session(model, tmp_path / "optimized.onnx")
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert nodes["MatMulIntegerToFloat"] == 2
    assert nodes.keys() <= {"MatMulIntegerToFloat", "QuantizeLinear", "Slice", "Concat", "Sub", "Clip"}


def test_layers_of_one_tensor_share_its_rows() -> None:
    first, second = (linear(4, 4, loud=(), class_token=True) for _ in range(2))
    second.input_quantizer = first.input_quantizer
    g = Graph("layers")
    x = g.input("x", TensorProto.FLOAT, ("batch", 5, 48))
    for name, layer in (("k", first), ("v", second)):
        linear_nodes.linear(g, x, layer, name)
    nodes = Counter(node.op_type for node in g.nodes)
    assert (nodes["Slice"], nodes["QuantizeLinear"], nodes["MatMul"]) == (2, 2, 4)


def test_pairs_of_loud_channels_count_where_sums_are_short() -> None:
    layer = linear(8, 4)
    assert layer.pairs_fit()
    layer.codes[0, LOUD[:2]] = 127
    assert not layer.pairs_fit()


@pytest.mark.parametrize(("scheme", "unpacked"), [("W8A8", True), ("W4A4", False)], ids=["unpacked", "packed"])
def test_an_export_is_the_simulation(
    loud_vit: CLIP, quantize: Callable[..., QuantizedCLIP], scheme: str, unpacked: bool, tmp_path: Path
) -> None:
    """Every layer and block; all products count among those that run in integers."""
    clip = quantize(loud_vit, scheme, towers=("image",))
    tokens = sum(entry.class_token for entry in clip.plan.values())
    assert bool(tokens) == (scheme == "W4A4")
    assert clip.loud_channels() == {"image.blocks.2.mlp.fc2": [7]}
    clip.save_pretrained(tmp_path / "artifact")
    made = d4c.export(tmp_path / "artifact", tmp_path / "export", unpacked=unpacked)
    assert made.parity is not None
    image = made.parity["image"]
    assert isinstance(image, TowerParity)
    assert not image.float_layers
    # The last block computes all but keys and values for the class token alone.
    own_products = 1 + (tokens - 4 if tokens else 0)
    assert image.integer_layers == sum(name.startswith("image.") for name in clip.plan) + own_products
