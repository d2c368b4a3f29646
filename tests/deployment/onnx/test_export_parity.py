"""The check finds what differs, and names the first of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

import d4c
from d4c.deployment.export import Export
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.parity import TowerParity, check_tower, probes
from d4c.deployment.onnx.parity_sessions import open_session
from d4c.deployment.onnx.tower_graphs import image_graph, text_graph
from d4c.errors import ArtifactError, SettingError
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.processor import VARIABLE


@pytest.fixture(scope="module")
def text(artifact: Path) -> tuple[QuantizedCLIP, Graph]:
    clip = d4c.load_quantized(artifact)
    return clip, text_graph(clip)


def scale(name: str, factor: float) -> Callable[[ModelProto], None]:
    """Multiply a constant of the graph."""

    def change(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))

    return change


def scale_part(name: str, part: int, factor: float, parts: int = 3) -> Callable[[ModelProto], None]:
    """Multiply one part of a constant, as q, k or v has in what they share."""

    def change(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        array = numpy_helper.to_array(tensor).copy()
        np.split(array, parts)[part][:] *= factor
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def another_row(model: ModelProto) -> None:
    """Read the smallest token of each prompt in place of its end."""
    next(node for node in model.graph.node if node.op_type == "ArgMax").op_type = "ArgMin"


def unmasked(model: ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "text.mask/full")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))


def unclipped(model: ModelProto) -> None:
    """Read the codes in front of the first Clip."""
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    for node in model.graph.node:
        node.input[:] = [clip.input[0] if name == clip.output[0] else name for name in node.input]
    model.graph.node.remove(clip)


def check(text: tuple[QuantizedCLIP, Graph], folder: Path, *changes: Callable[[ModelProto], None]) -> TowerParity:
    clip, graph = text
    model = graph.model("0")
    for change in changes:
        change(model)
    file = folder / "text.onnx"
    onnx.save(model, file)
    return check_tower(file, graph, clip, "text")


def test_an_untouched_graph_agrees_in_every_layer(text: tuple[QuantizedCLIP, Graph], tmp_path: Path) -> None:
    found = check(text, tmp_path)
    assert list(found.stages) == ["text.embed", *(f"text.blocks.{i}" for i in range(3)), "text.head"]
    assert all(stage.layer_error < 5e-6 for stage in found.stages.values())
    assert found.float_layers == {}


@pytest.mark.parametrize(
    "name",
    [
        "text.token_embedding/scale",
        "text.blocks.0.norm1/weight",
        "text.blocks.1.attn.context.b/input_scale",
        "text.blocks.2.mlp.fc1/negative_bias",
        "text.projection/weight_scale",
    ],
)
def test_a_constant_off_by_a_thousandth_is_found(name: str, text: tuple[QuantizedCLIP, Graph], tmp_path: Path) -> None:
    layer = name.split("/")[0].removesuffix(".b")
    with pytest.raises(ArtifactError, match=rf"computes {layer} differently"):
        check(text, tmp_path, scale(name, 1.001))


@pytest.mark.parametrize("constant", ["weight_scale", "negative_bias"])
@pytest.mark.parametrize("part", [0, 1, 2], ids="qkv".__getitem__)
def test_each_layer_of_a_joint_product_is_checked(
    constant: str, part: int, text: tuple[QuantizedCLIP, Graph], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=rf"computes text\.blocks\.1\.attn\.{'qkv'[part]} differently"):
        check(text, tmp_path, scale_part(f"text.blocks.1.attn.qkv/{constant}", part, 1.01))


@pytest.mark.parametrize("layer", ["attn.q", "attn.out", "norm2", "mlp.fc1", "mlp.fc2"])
def test_layers_that_compute_one_row_are_checked(layer: str, text: tuple[QuantizedCLIP, Graph], tmp_path: Path) -> None:
    name = f"text.blocks.2.{layer}"
    constant = "weight" if layer == "norm2" else "weight_scale"
    with pytest.raises(ArtifactError, match=rf"computes {name} differently"):
        check(text, tmp_path, scale(f"{name}/{constant}", 1.01))


@pytest.mark.parametrize("part", [0, 1], ids="kv".__getitem__)
def test_keys_and_values_of_the_last_block_are_checked(
    part: int, text: tuple[QuantizedCLIP, Graph], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=rf"computes text\.blocks\.2\.attn\.{'kv'[part]} differently"):
        check(text, tmp_path, scale_part("text.blocks.2.attn.kv/weight_scale", part, 1.01, parts=2))


def test_the_class_token_of_the_last_block_is_checked(artifact: Path, tmp_path: Path) -> None:
    clip = d4c.load_quantized(artifact)
    graph = image_graph(clip)
    model = graph.model("0")
    layer = f"{graph.states[-1].name}.mlp.fc2"
    scale(f"{layer}/weight_scale", 1.01)(model)
    onnx.save(model, tmp_path / "image.onnx")
    with pytest.raises(ArtifactError, match=f"computes {layer} differently"):
        check_tower(tmp_path / "image.onnx", graph, clip, "image")


def test_another_row_is_found(text: tuple[QuantizedCLIP, Graph], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"computes text\.blocks\.2 differently"):
        check(text, tmp_path, another_row)


def test_of_several_differences_the_first_is_named(text: tuple[QuantizedCLIP, Graph], tmp_path: Path) -> None:
    late, early = "text.blocks.2.mlp.fc1", "text.blocks.1.mlp.fc2"
    with pytest.raises(ArtifactError, match=f"computes {early} differently"):
        check(text, tmp_path, scale(f"{late}/weight_scale", 2), scale(f"{early}/weight_scale", 2))


def test_a_difference_between_layers_is_found(text: tuple[QuantizedCLIP, Graph], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"computes text\.blocks\.0 differently"):
        check(text, tmp_path, unmasked)


def test_a_missing_clip_is_found(quantize: Callable[..., QuantizedCLIP], short_vit: CLIP, tmp_path: Path) -> None:
    """Only values outside the range tell, and the inputs of the check hold some."""
    clip = quantize(short_vit, "W4A4", towers=("image",))
    graph = image_graph(clip)
    model = graph.model("0")
    unclipped(model)
    onnx.save(model, tmp_path / "image.onnx")
    with pytest.raises(ArtifactError, match=r"computes image\.blocks\.0"):
        check_tower(tmp_path / "image.onnx", graph, clip, "image")


@pytest.fixture
def wide(artifact: Path) -> QuantizedCLIP:
    """The artifact with weights in one layer that do not fit 16 bits in pairs."""
    clip = d4c.load_quantized(artifact)
    layer = clip.layers()["text.blocks.0.attn.q"]
    layer.weight_args = replace(layer.weight_args, num_bits=8)
    layer.set_codes(layer.codes.sign() * 100)
    return clip


@pytest.mark.parametrize("without_vnni", [None, True], ids=["this processor", "without VNNI"])
def test_wide_weights_agree_on_every_processor(
    without_vnni: bool | None, wide: QuantizedCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check adds as the runtime will: with wide sums where the processor needs them."""
    if without_vnni:
        monkeypatch.setenv(VARIABLE, "1")
    found = check((wide, text_graph(wide, unpacked=True)), tmp_path)
    assert all(stage.layer_error < 5e-6 for stage in found.stages.values())
    assert found.float_layers == {}


def test_the_check_is_the_same_every_time(exported: tuple[QuantizedCLIP, Export]) -> None:
    clip, _ = exported
    torch.manual_seed(5)
    first = probes(clip, "image")
    assert torch.equal(first, probes(clip, "image"))


def test_a_graph_that_this_runtime_cannot_read_is_refused(text: tuple[QuantizedCLIP, Graph]) -> None:
    model = text[1].model("0")
    model.opset_import[0].version = 99
    with pytest.raises(SettingError, match=r"^ONNX Runtime \d.* cannot load .*install a newer onnxruntime\.$"):
        open_session(model.SerializeToString())
