"""Whole towers: integer kernels everywhere, in every runtime, for every batch and length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from torch import Tensor

import d4c
from d4c.deployment.export import Export
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.parity import check_tower
from d4c.deployment.onnx.parity_sessions import INTEGER_KERNELS, open_session
from d4c.deployment.onnx.tower_graphs import image_graph, text_graph
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.resnet import Bottleneck
from d4c.models.tower import Tower
from d4c.models.tower_config import ResNetConfig, TextConfig, ViTConfig
from d4c.models.vit import VisionTransformer
from d4c.quantization.layers.quantized_activations import QuantizedAvgPool2d, QuantizedMatMul
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.openvino_convolutions import use_convolutions

Exported = tuple[QuantizedCLIP, Export]
Run = Callable[[bytes, dict[str, NDArray[Any]]], NDArray[Any]]
TEXTS = ["a photo of a dog", "a very long sentence about a cat in the snow, seen from far away", "tree"]
FLOAT_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv"}


def cosines(a: np.ndarray[Any, Any], b: Tensor) -> Tensor:
    return torch.cosine_similarity(torch.from_numpy(a), b, dim=-1)


def ort(file: Path, inputs: Tensor) -> np.ndarray[Any, Any]:
    session = open_session(file)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])


def kernels(file: Path, folder: Path, fixed: dict[str, int]) -> Counter[str]:
    """Node types of the optimized graph, with some dimensions fixed."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    for name, size in fixed.items():
        options.add_free_dimension_override_by_name(name, size)
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


FIXED = pytest.mark.parametrize(
    "fixed", [{}, {"batch": 1, "length": 9}, {"batch": 4}], ids=["dynamic", "static", "batch 4"]
)


@FIXED
def test_no_product_runs_in_floating_point(
    exported: Exported, fixed: dict[str, int], integer_products: Callable[[Tower], int], tmp_path: Path
) -> None:
    clip, made = exported
    for tower in ("image", "text"):
        found = kernels(made.folder / f"{tower}.onnx", tmp_path, fixed)
        # q, k and v of a text block are one, in the last k and v.
        joined = 2 * len(clip.text.blocks) - 1 if tower == "text" else 0
        assert sum(found[kind] for kind in INTEGER_KERNELS) == integer_products(clip.tower(tower)) - joined
        assert not FLOAT_PRODUCTS & set(found)
        assert "Cast" not in found or tower == "text"  # every weight was unfolded at load


def test_nothing_is_cut_or_scaled_in_the_blocks_of_a_text_tower(exported: Exported, tmp_path: Path) -> None:
    """The time of one prompt is that of many small nodes: each block splits twice and multiplies with two constants.

    Below 8 bits it multiplies by the peaks of its softmax too.
    """
    clip, made = exported
    found = kernels(made.folder / "text.onnx", tmp_path, {})
    blocks = len(clip.text.blocks)
    assert clip.text.begin_id is not None
    assert found["Split"] == 2 * blocks
    assert found["Slice"] == 3  # tokens, positions and the mask
    by_row = sum(isinstance(module, QuantizedMatMul) and module.by_row for module in clip.text.modules())
    assert found["Mul"] == 2 * blocks + by_row + 1  # and rows of the token table


def picked_behind(g: Graph) -> ModelProto:
    """The graph with all rows in its last block, and the one that reaches the embedding picked behind it."""
    model = g.model("0")
    picks = {node.output[0]: node for node in model.graph.node if node.output[0] in {*g.rows, "text.mask/end"}}
    last = g.states[-1].name
    nodes = []
    for node in model.graph.node:
        if node.output[0] in picks:
            continue
        if last in node.input:
            pick = picks[g.rows[0]]
            node.input[0] = f"{last}/picked"
            nodes.append(helper.make_node(pick.op_type, [last, *pick.input[1:]], [node.input[0]]))
            nodes[-1].attribute.extend(pick.attribute)
        node.input[:] = [picks[name].input[0] if name in picks else name for name in node.input]
        nodes.append(node)
    graph = helper.make_graph(nodes, "whole", model.graph.input, model.graph.output, model.graph.initializer)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def transformers(clip: CLIP) -> Iterator[tuple[Graph, Tensor]]:
    """Graphs of the towers that are transformers, and inputs."""
    yield text_graph(clip), clip.text.crop(clip.tokenize(TEXTS))
    if isinstance(clip.image, VisionTransformer):
        yield image_graph(clip), d4c.synthesize(clip, "leaves", images=2).pixels


def test_one_row_of_the_last_block_is_all_that_counts(exported: Exported, runtime: Run) -> None:
    """Bit for bit: rows of a block meet in keys and values only."""
    for g, inputs in transformers(exported[0]):
        feeds = {g.inputs[0].name: inputs.numpy()}
        whole = runtime(picked_behind(g).SerializeToString(), feeds)
        assert np.array_equal(runtime(g.model("0").SerializeToString(), feeds), whole)


def test_the_last_block_computes_one_row(exported: Exported) -> None:
    """All but its keys and values."""
    parts = (".q", ".k", ".v", ".out", ".fc1", ".fc2")
    for g, inputs in transformers(exported[0]):
        names = [name for name in g.layers if ".blocks." in name and name.endswith(parts)]
        model = g.model("0")
        model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        session = open_session(model.SerializeToString())
        found = session.run(names, {g.inputs[0].name: inputs.numpy()})
        rows = dict(zip(names, (len(array[0]) for array in found), strict=True))
        length = rows[names[0]]
        assert length > 1
        for name, count in rows.items():
            one = name.startswith(f"{g.states[-1].name}.") and not name.endswith((".k", ".v"))
            assert count == (1 if one else length), name


@FIXED
def test_sums_and_pools_of_a_resnet_run_in_integers(exported: Exported, fixed: dict[str, int], tmp_path: Path) -> None:
    """All but the last sum, which the attention pool reads in floating point."""
    clip, made = exported
    blocks = [block for block in clip.image.blocks if isinstance(block, Bottleneck)]
    found = kernels(made.folder / "image.onnx", tmp_path, fixed)
    assert found["QLinearAdd"] == max(0, len(blocks) - 1)
    assert found["QLinearAveragePool"] == sum(isinstance(m, QuantizedAvgPool2d) for m in clip.modules())
    assert not found["AveragePool"]


def test_every_prompt_gets_its_embedding_alone_and_in_company(exported: Exported) -> None:
    """The length of a batch may be anything behind the longest prompt."""
    clip, made = exported
    tokens = clip.tokenize(TEXTS)
    whole = ort(made.folder / "text.onnx", tokens)
    # With 4 bits, a single code at a rounding boundary shows.
    assert cosines(whole, clip.encode_text(tokens)).min() > 0.99
    assert cosines(ort(made.folder / "text.onnx", clip.text.crop(tokens)), torch.from_numpy(whole)).min() > 0.99
    for i in range(len(tokens)):
        alone = ort(made.folder / "text.onnx", clip.text.crop(tokens[i : i + 1]))
        assert cosines(alone, torch.from_numpy(whole[i : i + 1])).min() > 0.99


@pytest.mark.parametrize("convolutions", [False, True], ids=["as written", "convolutions"])
def test_openvino_runs_the_same_files(convolutions: bool, exported: Exported) -> None:
    clip, made = exported
    pixels = d4c.synthesize(clip, "leaves", images=2).pixels
    core = openvino.Core()
    for tower, inputs, encode in (
        ("image", pixels, clip.encode_image),
        ("text", clip.text.crop(clip.tokenize(TEXTS)), clip.encode_text),
    ):
        graph = core.read_model(made.folder / f"{tower}.onnx")
        layers = use_convolutions(graph) if convolutions else 0
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = core.compile_model(graph, "CPU", settings)
        # Single codes at rounding boundaries fall differently in every runtime, and with 4 bits a code is a big step.
        assert cosines(compiled(inputs.numpy())[0], encode(inputs)).min() > 0.97
        nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        kinds = [(str(n["layerType"].value), str(n["primitiveType"].value)) for n in nodes]
        kinds = [kind for kind in kinds if kind[0] in ("FullyConnected", "Convolution")]
        assert kinds
        assert all(primitive.endswith("I8") for _, primitive in kinds)
        if convolutions:
            # The last projection reads a matrix.
            assert layers >= 4
            assert sum(kind == "FullyConnected" for kind, _ in kinds) <= 1


def tiny(image: ViTConfig | ResNetConfig, text: TextConfig) -> CLIP:
    torch.manual_seed(3)
    clip = CLIP(CLIPConfig(16, image, text), "tiny").eval().requires_grad_(False)
    for module in clip.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.2)
    return clip


VIT = ViTConfig(16, 8, 32, 2, 2, 64)
TEXT = TextConfig(width=32, layers=2, heads=2, mlp_width=64)
VARIANTS: dict[str, tuple[ViTConfig | ResNetConfig, TextConfig]] = {
    "gelu": (replace(VIT, activation="gelu"), replace(TEXT, activation="gelu")),
    "end-of-text by id": (VIT, replace(TEXT, eos_id=49407)),
    "patches that leave a border": (replace(VIT, image_size=19), TEXT),
    "resnet": (ResNetConfig(64, 8, (1, 1, 1, 1), 4), TEXT),
}


@pytest.mark.parametrize(
    ("variant", "scheme", "towers"),
    [
        *((variant, "W3A5", ("image", "text")) for variant in VARIANTS),
        ("gelu", "W8A8", ("image",)),
        ("resnet", "W8A8", ("text",)),
    ],
    ids=str,
)
def test_every_kind_of_tower_agrees_with_pytorch(
    variant: str, scheme: str, towers: tuple[str, ...], quantize: Callable[..., QuantizedCLIP], tmp_path: Path
) -> None:
    """Quantized or left in floating point."""
    clip = quantize(tiny(*VARIANTS[variant]), scheme, towers=towers)
    for tower, make in (("image", image_graph), ("text", text_graph)):
        graph = make(clip)
        file = tmp_path / f"{tower}.onnx"
        model = graph.model("0")
        onnx.checker.check_model(model, full_check=True)
        file.write_bytes(model.SerializeToString())
        found = check_tower(file, graph, clip, tower)
        assert found.cosine_min > 0.9
        assert bool(found.integer_layers) == (tower in towers)


def test_the_first_end_of_text_counts(quantize: Callable[..., QuantizedCLIP], tmp_path: Path) -> None:
    """Some tokenizers fill up with end-of-text."""
    clip = quantize(tiny(*VARIANTS["end-of-text by id"]), "W8A8", towers=("text",))
    (tmp_path / "text.onnx").write_bytes(text_graph(clip).model("0").SerializeToString())
    tokens = clip.tokenize(TEXTS)
    filled = torch.where(tokens == 0, 49407, tokens)
    assert np.array_equal(ort(tmp_path / "text.onnx", filled), ort(tmp_path / "text.onnx", tokens))


def test_states_between_stages_have_the_declared_shapes(exported: Exported) -> None:
    clip, made = exported
    for tower in ("image", "text"):
        model = onnx.load(made.folder / f"{tower}.onnx")
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        assert len(model.graph.value_info) == len(getattr(clip, tower).blocks) + 1
        onnx.checker.check_model(inferred)
