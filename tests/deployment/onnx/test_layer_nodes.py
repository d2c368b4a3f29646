"""Each layer form on its own: exact integer arithmetic, in every runtime, inside and far outside the range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from d4c.deployment.onnx import layer_nodes as layers
from d4c.deployment.onnx import linear_nodes
from d4c.deployment.onnx.forms import fake_quantized
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.parity_sessions import open_session
from d4c.deployment.onnx.transformer_nodes import attend
from d4c.models.layers import Attention, QuickGELU
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_activations import QuantizedAdd, QuantizedAvgPool2d, QuantizedMatMul
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding

Run = Callable[[bytes, dict[str, NDArray[Any]]], NDArray[Any]]
Shape = tuple[int | str, ...]

WIDTHS = pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 8), (6, 6), (4, 4)])
RANGES = pytest.mark.parametrize("spread", [0.5, 8.0], ids=["in-range", "out-of-range"])


def quantizer(bits: int) -> ActivationQuantizer:
    """Values from about -1 to 2."""
    made = ActivationQuantizer(QuantArgs(bits, False, "tensor"))
    made.set_range(torch.tensor(3.0 / made.args.qmax), torch.tensor(float(made.args.qmax // 3)))
    return made


def frozen(layer: QuantizedLinear | QuantizedConv2d) -> Any:
    layer.calibrate_weight()
    # Within what CPUs without VNNI instructions add up exactly.
    layer.set_codes(layer.codes.clamp(-63, 63))
    layer.freeze()
    return layer


def linear(weight_bits: int, activation_bits: int, bias: bool = True) -> QuantizedLinear:
    args = QuantArgs(weight_bits, True, "channel")
    return frozen(QuantizedLinear(nn.Linear(48, 40, bias), args, quantizer(activation_bits)))


def conv(weight_bits: int, activation_bits: int, bias: bool = True, **shape: Any) -> QuantizedConv2d:
    args = QuantArgs(weight_bits, True, "channel")
    source = nn.Conv2d(16, 24, 3, padding=1, bias=bias, **shape)
    return frozen(QuantizedConv2d(source, args, quantizer(activation_bits)))


def graph_of(emit: Callable[[Graph, str], str], shape: Shape) -> bytes:
    g = Graph("layer")
    y = emit(g, g.input("x", TensorProto.FLOAT, shape))
    g.output(g.node("Identity", [y], "y"), [f"y{i}" for i in range(len(shape))])
    model = g.model("0")
    onnx.checker.check_model(model)
    return model.SerializeToString()


def assert_close(got: NDArray[Any], want: Tensor) -> None:
    scale = want.abs().max().item()
    assert np.abs(got - want.detach().numpy()).max() <= 2e-6 * scale


@WIDTHS
@RANGES
def test_linear_is_exact(weight_bits: int, activation_bits: int, spread: float, runtime: Run) -> None:
    layer = linear(weight_bits, activation_bits)
    x = spread * torch.randn(2, 5, 48)
    model = graph_of(lambda g, x: linear_nodes.linear(g, x, layer, "fc"), ("batch", 5, 48))
    assert_close(runtime(model, {"x": x.numpy()}), layer.integer_forward(x))


@WIDTHS
@RANGES
def test_convolution_is_exact(weight_bits: int, activation_bits: int, spread: float, runtime: Run) -> None:
    layer = conv(weight_bits, activation_bits, stride=2)
    x = spread * torch.randn(2, 16, 9, 9)
    model = graph_of(lambda g, x: layers.conv(g, x, layer, "conv"), ("batch", 16, 9, 9))
    assert_close(runtime(model, {"x": x.numpy()}), layer.integer_forward(x))


@pytest.mark.parametrize("bits", [8, 6, 4])
@RANGES
def test_product_of_activations_is_exact(bits: int, spread: float, runtime: Run) -> None:
    layer = QuantizedMatMul(quantizer(bits), quantizer(bits))
    a, b = spread * torch.randn(2, 3, 5, 16), spread * torch.randn(2, 3, 16, 7)
    g = Graph("product")
    g.input("a", TensorProto.FLOAT, ["batch", 3, 5, 16])
    g.input("b", TensorProto.FLOAT, ["batch", 3, 16, 7])
    g.output(layers.matmul(g, "a", "b", layer, "scores"), ["batch", 3, 5, 7])
    found = runtime(g.model("0").SerializeToString(), {"a": a.numpy(), "b": b.numpy()})
    assert_close(found, layer.integer_forward(a, b))


@pytest.mark.parametrize("bits", [8, 6, 4])
@RANGES
def test_sum_of_activations_is_exact(bits: int, spread: float, runtime: Run) -> None:
    layer = QuantizedAdd(quantizer(8), quantizer(bits))
    a, b = spread * torch.randn(2, 16, 5, 5), spread * torch.randn(2, 16, 5, 5)
    g = Graph("sum")
    g.input("a", TensorProto.FLOAT, ["batch", 16, 5, 5])
    g.input("b", TensorProto.FLOAT, ["batch", 16, 5, 5])
    g.output(layers.add(g, "a", "b", layer, "add"), ["batch", 16, 5, 5])
    found = runtime(g.model("0").SerializeToString(), {"a": a.numpy(), "b": b.numpy()})
    assert_close(found, layer.integer_forward(a, b))


@pytest.mark.parametrize("bits", [8, 6, 4])
@RANGES
def test_average_pool_is_exact(bits: int, spread: float, runtime: Run) -> None:
    layer = QuantizedAvgPool2d(nn.AvgPool2d(2), quantizer(bits))
    x = spread * torch.randn(2, 16, 8, 8)
    model = graph_of(lambda g, x: layers.average_pool(g, x, layer, "pool"), ("batch", 16, 8, 8))
    assert_close(runtime(model, {"x": x.numpy()}), layer.integer_forward(x))


def test_halves_are_rounded_to_even(runtime: Run) -> None:
    layer = linear(8, 8, bias=False)
    layer.input_quantizer.set_range(torch.tensor(1.0), torch.tensor(20.0))
    x = torch.arange(-24, 24).float() + 0.5
    model = graph_of(lambda g, x: linear_nodes.linear(g, x, layer, "fc"), (1, 48))
    assert_close(runtime(model, {"x": x[None].numpy()}), layer.integer_forward(x[None]))


@pytest.mark.parametrize("all_rows", [True, False], ids=["all rows stored", "used rows stored"])
def test_every_token_has_its_row(all_rows: bool, runtime: Run) -> None:
    source = nn.Embedding(50, 8)
    if not all_rows:
        source.weight.data[10:] *= (torch.arange(40) % 3 == 0)[:, None]
    layer = QuantizedEmbedding(source, QuantArgs(8, True, "channel"))
    layer.calibrate_weight()
    layer.freeze()
    g = Graph("tokens")
    g.input("x", TensorProto.INT64, ["batch", "length"])
    g.output(layers.embedding(g, "x", layer, "tokens"), ["batch", "length", 8])
    tokens = torch.arange(50).view(5, 10)
    found = runtime(g.model("0").SerializeToString(), {"x": tokens.numpy()})
    assert np.array_equal(found, layer.integer_forward(tokens).numpy())
    rows = next(tensor.dims[0] for tensor in g.constants.values() if tensor.name == "tokens/weight")
    assert rows == (50 if all_rows else int(layer.used_rows().sum()) + 1)


@pytest.mark.parametrize("layer", [nn.LayerNorm(48, eps=1e-3), QuickGELU(), nn.GELU()], ids=lambda m: type(m).__name__)
def test_float_layers_are_those_of_pytorch(layer: nn.Module, runtime: Run) -> None:
    def emit(g: Graph, x: str) -> str:
        if isinstance(layer, nn.LayerNorm):
            return layers.layer_norm(g, x, layer, "float")
        return layers.activation(g, x, layer, "float")

    x = 3 * torch.randn(2, 5, 48) + 1
    assert_close(runtime(graph_of(emit, ("batch", 5, 48)), {"x": x.numpy()}), layer(x))


def optimized(model: bytes, folder: Path) -> onnx.GraphProto:
    path = folder / "optimized.onnx"
    open_session(model, path)
    return onnx.load(path).graph


@pytest.mark.parametrize("shape", [(2, 5, 48), ("batch", 5, 48), (5, 48), ("rows", 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@WIDTHS
def test_linear_runs_in_integers(
    shape: Shape, bias: bool, weight_bits: int, activation_bits: int, tmp_path: Path
) -> None:
    """A bias that is added becomes a float Gemm where shapes are static, and one at rank 2 everywhere."""
    layer = linear(weight_bits, activation_bits, bias)
    graph = optimized(graph_of(lambda g, x: linear_nodes.linear(g, x, layer, "fc"), shape), tmp_path)
    nodes = Counter(node.op_type for node in graph.node)
    expected = {"QuantizeLinear": 1, "MatMulIntegerToFloat": 1}
    expected |= {"Sub": 1} if bias else {}
    expected |= {"Clip": 1} if activation_bits < 8 else {}
    assert nodes == expected
    # Whatever the weight takes on disk, it was unfolded when the file was loaded.
    assert [t.data_type for t in graph.initializer if len(t.dims) == 2] == [TensorProto.INT8]


@WIDTHS
def test_convolution_before_a_quantizer_runs_in_integers(
    weight_bits: int, activation_bits: int, tmp_path: Path
) -> None:
    """With a ReLU between; without a bias, nothing but codes at a rounding boundary can differ."""
    layer, reader = conv(weight_bits, activation_bits, bias=False), quantizer(activation_bits)
    reader.set_range(torch.tensor(1.5 / reader.args.qmax), torch.tensor(0.0))

    def emit(g: Graph, x: str) -> str:
        return fake_quantized(g, g.node("Relu", [layers.conv(g, x, layer, "conv")], "relu"), reader, "reader")

    model = graph_of(emit, ("batch", 16, 9, 9))
    nodes = Counter(node.op_type for node in optimized(model, tmp_path).node)
    assert nodes["QLinearConv"] == 1
    assert not nodes["Conv"] + nodes["FusedConv"]
    x = torch.randn(2, 16, 9, 9)
    got = open_session(model).run(None, {"x": x.numpy()})[0] / reader.scale.numpy()
    want = reader.codes(layer.integer_forward(x).relu()).numpy()
    assert np.abs(got - want).max() <= 1.001
    assert (np.abs(got - want) > 0.5).mean() <= 1e-3


def three_layers() -> dict[str, linear_nodes.Scaled]:
    """Weights of different bits behind one quantizer, the first with a factor."""
    made = [linear(bits, 8) for bits in (4, 6, 8)]
    for layer in made:
        layer.input_quantizer = made[0].input_quantizer
    return dict(zip("qkv", zip(made, (0.3, 1.0, 1.0), strict=True), strict=True))


def joint(parts: dict[str, linear_nodes.Scaled], shape: Shape) -> bytes:
    """The outputs one behind the other, the last first."""

    def emit(g: Graph, x: str) -> str:
        return g.node("Concat", linear_nodes.joint_linear(g, x, parts, "qkv")[::-1], "all", axis=-1)

    return graph_of(emit, shape)


@RANGES
def test_layers_side_by_side_are_exact(spread: float, runtime: Run) -> None:
    parts = three_layers()
    x = spread * torch.randn(2, 5, 48)
    want = [factor * layer.integer_forward(x) for layer, factor in parts.values()]  # type: ignore[operator]
    assert_close(runtime(joint(parts, ("batch", "length", 48)), {"x": x.numpy()}), torch.cat(want[::-1], -1))


@pytest.mark.parametrize("shape", [(1, 9, 48), ("batch", "length", 48)], ids=str)
def test_layers_side_by_side_are_one_integer_product(shape: Shape, tmp_path: Path) -> None:
    """In both runtimes, though each weight is stored in its own bits."""
    model = joint(three_layers(), shape)
    stored = {t.name: len(t.raw_data) for t in onnx.load_from_string(model).graph.initializer if "/weight" in t.name}
    size = 48 * 40
    assert sum(stored.values()) - stored["qkv/weight_scale"] == size // 2 + size * 3 // 4 + size
    nodes = Counter(node.op_type for node in optimized(model, tmp_path).node)
    assert nodes == {"QuantizeLinear": 1, "MatMulIntegerToFloat": 1, "Sub": 1, "Split": 1, "Concat": 1}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    primitives = [str(n["primitiveType"].value) for n in found if n["layerType"].value == "FullyConnected"]
    assert len(primitives) == 1
    assert primitives[0].endswith("I8")


def test_readers_of_one_quantizer_share_its_nodes(tmp_path: Path) -> None:
    """As k and v of an attention pool do."""
    q, k = linear(8, 8), linear(8, 8)
    k.input_quantizer = q.input_quantizer

    def emit(g: Graph, x: str) -> str:
        return g.node("Add", [linear_nodes.linear(g, x, q, "q"), linear_nodes.linear(g, x, k, "k")], "sum")

    nodes = Counter(node.op_type for node in optimized(graph_of(emit, (2, 5, 48)), tmp_path).node)
    assert (nodes["QuantizeLinear"], nodes["MatMulIntegerToFloat"]) == (1, 2)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_openvino_fuses_an_attention_of_any_width(bits: int) -> None:
    """In one kernel; a Clip of codes leaves the products and the softmax apart, which costs half as much again."""
    attention = Attention(64, 2)
    attention.scores = QuantizedMatMul(quantizer(bits), quantizer(bits))
    attention.context = QuantizedMatMul(quantizer(bits), quantizer(bits))
    attention.context.a.zero_point.zero_()  # softmax gives nothing below zero
    g = Graph("attention")
    q, k, v = (g.input(name, TensorProto.FLOAT, ["batch", 5, 64]) for name in "qkv")
    g.output(attend(g, q, k, v, attention, "attn"), ["batch", 5, 64])
    core = openvino.Core()
    model = core.read_model(g.model("0").SerializeToString())
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(model, "CPU", settings)
    kinds = {node.get_rt_info()["layerType"].value for node in compiled.get_runtime_model().get_ops()}
    assert "Subgraph" in kinds
    assert not kinds & {"MatMul", "Softmax"}


def test_ranges_of_activations_have_rank_zero() -> None:
    """Of shape [1], ONNX Runtime refuses integer pooling."""
    model = onnx.load_from_string(graph_of(lambda g, x: linear_nodes.linear(g, x, linear(8, 8), "fc"), (5, 48)))
    shapes = {t.name: list(t.dims) for t in model.graph.initializer if "input_" in t.name}
    assert shapes == {"fc/input_scale": [], "fc/input_zero_point": []}
