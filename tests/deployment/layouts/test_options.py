"""What the options of an export change: towers, states, shapes, forms, and who takes which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

import d4c
from d4c import cli
from d4c.deployment.layouts.graphs.graph_file import GraphFile, Ports
from d4c.deployment.layouts.graphs.port_graph import port_graph
from d4c.deployment.target import ExportOptions
from d4c.deployment.targets import TARGETS, find_target
from d4c.errors import SettingError
from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.inputs.tokenizer import token_ids
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.quantization.stages import stages
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.zeroshot.classification import unit_rows

ExportFor = Callable[..., Path]


def shapes(file: Path) -> dict[str, list[Any]]:
    session = onnxruntime.InferenceSession(file)
    return {x.name: x.shape for x in [*session.get_inputs(), *session.get_outputs()]}


@pytest.mark.parametrize("target", ["graphs", "fastembed", "immich", "transformers.js"])
def test_one_tower_alone(target: str, export_for: ExportFor) -> None:
    both, image, text = (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx")}
        for folder in (export_for(target), export_for(target, tower="image"), export_for(target, tower="text"))
    )
    assert image
    assert text
    assert not image & text
    assert image | text <= both


def test_a_tool_of_one_file_has_no_single_towers(export_for: ExportFor) -> None:
    with pytest.raises(SettingError, match="one file of both towers, and no file of one; leave out --tower"):
        export_for("optimum", tower="image")


def test_fixed_shapes_hold_no_infinite_numbers(export_for: ExportFor, ours: RuntimeCLIP, few: Any) -> None:
    folder = export_for("graphs", fixed_shapes=True)
    assert shapes(folder / "image.onnx") == {"pixel_values": [1, 3, 64, 64], "image_embeds": [1, 32]}
    assert shapes(folder / "text.onnx") == {"input_ids": [1, 77], "text_embeds": [1, 32]}
    for tensor in onnx.load(folder / "text.onnx").graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            assert np.isfinite(numpy_helper.to_array(tensor)).all(), tensor.name
    session = onnxruntime.InferenceSession(folder / "text.onnx")
    for row, expected in zip(ours.tokenize(few.prompts)[:4], unit_rows(few.text), strict=False):
        assert unit_rows(session.run(None, {"input_ids": row[None]})[0])[0] @ expected > 0.999


@pytest.mark.parametrize("tower", ["image", "text"])
def test_features_are_the_states_between_blocks(
    tower: str, export_for: ExportFor, small: Path, ours: RuntimeCLIP, few: Any
) -> None:
    file = export_for("graphs", features=True) / f"{tower}.onnx"
    clip = d4c.load_quantized(small)
    if tower == "image":
        inputs = torch.from_numpy(np.stack([ours.preprocess(path) for path in few.pictures[:3]]))
    else:
        inputs = clip.text.crop(clip.tokenize(few.prompts[:3]))
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: inputs.numpy()}), strict=True))
    state = inputs
    for i, stage in enumerate(stages(clip, tower)[:-1]):
        with torch.no_grad():
            state = stage.run(clip, state, inputs)
        theirs = found[f"hidden_states.{i}"]
        assert theirs.shape == state.shape
        assert np.abs(theirs - state.numpy()).mean() < 0.02 * state.abs().mean()
    assert f"hidden_states.{i + 1}" not in found


def test_files_for_webgpu_lie_beside_the_integers(export_for: ExportFor) -> None:
    folder = export_for("transformers.js", webgpu=True)
    kinds = {file.name: {node.op_type for node in onnx.load(file).graph.node} for file in folder.glob("onnx/vision*")}
    packed = {name for name, kind in kinds.items() if "MatMulNBits" in kind}
    assert packed == {"vision_model_q4.onnx", "vision_model_q4f16.onnx"}
    assert "QuantizeLinear" in kinds["vision_model_quantized.onnx"]
    assert "QuantizeLinear" not in kinds["vision_model_q4.onnx"]
    settings = json.loads((folder / "config.json").read_text())["transformers.js_config"]
    assert settings == {"dtype": "q8", "device_config": {"webgpu": {"dtype": "q4"}}}


def test_packed_weights_are_those_of_the_artifact(export_for: ExportFor, small: Path) -> None:
    """Each block of 32 inputs has the scale of its output; 8 stands for zero."""
    layer = d4c.load_quantized(small).layers()["image.blocks.1.mlp.fc2"]
    graph = onnx.load(export_for("transformers.js", webgpu=True) / "onnx" / "vision_model_q4.onnx").graph
    node = next(node for node in graph.node if node.name == "image.blocks.1.mlp.fc2/product")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    packed, scales = constants[node.input[1]], constants[node.input[2]]
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1).astype(int) - 8
    assert np.array_equal(codes, layer.codes.numpy())
    assert np.array_equal(scales.reshape(len(packed), -1)[:, 3], layer.weight_scale.flatten().numpy())


def test_a_narrow_table_takes_half_the_bytes(export_for: ExportFor, ours: RuntimeCLIP, few: Any) -> None:
    plain, narrow = export_for("graphs") / "text.onnx", export_for("graphs", narrow_table=True) / "text.onnx"
    codes = 49408 * 64
    assert narrow.stat().st_size - plain.stat().st_size == pytest.approx(codes / 32 - codes / 2, rel=0.02)
    found = onnxruntime.InferenceSession(narrow).run(None, {"input_ids": ours.tokenize(few.prompts)})[0]
    assert (unit_rows(found) * unit_rows(few.text)).sum(-1).min() > 0.98


@pytest.mark.slow
def test_a_published_text_tower_with_a_narrow_table_fits(quantize: Callable[..., Any], tmp_path: Path) -> None:
    """That of ViT-B/32 at W4A8, random weights: at most 34 MB, 45.5 with 8 bits in the table."""
    image = ViTConfig(32, 16, 64, 1, 1, 64)
    clip = CLIP(CLIPConfig(512, image, TextConfig(512, 12, 8, 2048)), "published").eval().requires_grad_(False)
    quantize(clip, "W4A8").save_pretrained(tmp_path / "artifact")
    options: dict[str, Any] = {"target": "graphs", "tower": "text", "check": False}
    made = d4c.export(tmp_path / "artifact", tmp_path / "narrow", narrow_table=True, **options)
    assert made.sizes["text.onnx"] < 34e6
    assert 45e6 < d4c.export(tmp_path / "artifact", tmp_path / "plain", **options).sizes["text.onnx"] < 46e6


@pytest.mark.slow
def test_a_narrow_table_keeps_the_embeddings_of_a_trained_model(artifact: Path, tmp_path: Path) -> None:
    """Mean cosine to the table of 8 bits over the names of the emoji pack."""
    tokens = token_ids([f"a {name} icon" for name in demo_dataset().classes])[:, :20]
    rows = []
    for narrow in (False, True):
        folder = tmp_path / str(narrow)
        d4c.export(artifact, folder, target="graphs", tower="text", narrow_table=narrow, check=False)
        session = onnxruntime.InferenceSession(folder / "text.onnx")
        rows.append(unit_rows(session.run(None, {"input_ids": tokens})[0]))
    assert (rows[0] * rows[1]).sum(-1).mean() > 0.998


def test_a_resnet_has_no_form_with_packed_weights_alone(demo_rn: CLIP) -> None:
    with pytest.raises(SettingError, match=r"has a ResNet, .*leave out --webgpu"):
        port_graph(demo_rn, GraphFile("a.onnx", ("image",), Ports(), "weights"))


def test_a_float_model_has_no_packed_weights(demo_vit: CLIP, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="give an artifact or leave out --webgpu"):
        d4c.export(demo_vit, tmp_path / "out", target="graphs", webgpu=True)


@pytest.mark.parametrize(("half", "dtype", "suffix"), [(False, "fp32", ""), (True, "fp16", "_fp16")])
def test_float_models_have_the_same_layout(half: bool, dtype: str, suffix: str, demo_vit: CLIP, tmp_path: Path) -> None:
    made = d4c.export(demo_vit, tmp_path / "out", target="transformers.js", tower="image", half=half)
    assert set(made.sizes) == {"config.json", f"onnx/vision_model{suffix}.onnx"}
    config = json.loads((made.folder / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": dtype}
    assert made.parity is not None
    assert made.parity[f"onnx/vision_model{suffix}.onnx"].to_dict()["cosine_min"] > 0.999


def test_a_float_model_needs_a_place(demo_vit: CLIP) -> None:
    with pytest.raises(SettingError, match="give the folder to write"):
        d4c.export(demo_vit, target="graphs")


OPTIONS = {
    "--tower": ExportOptions(tower="image"),
    "--features": ExportOptions(features=True),
    "--fixed-shapes": ExportOptions(fixed_shapes=True),
    "--narrow-table": ExportOptions(narrow_table=True),
    "--webgpu": ExportOptions(webgpu=True),
    "--without-vnni": ExportOptions(without_vnni=True),
    "--float32": ExportOptions(half=False),
    "--float16": ExportOptions(half=True),
}


@pytest.mark.parametrize(("word", "options"), OPTIONS.items(), ids=OPTIONS)
def test_targets_refuse_what_their_reader_cannot_read(word: str, options: ExportOptions) -> None:
    able = [target.name for target in TARGETS.values() if word in target.takes]
    assert [find_target(name, options).name for name in able] == able
    if word not in TARGETS["onnx"].takes:
        with pytest.raises(SettingError, match=f"'onnx' does not take {word}, .* choose --for {', '.join(able)}"):
            find_target("onnx", options)
    for target in TARGETS.values():
        assert options.chosen() == [word]
        if word not in target.takes:
            with pytest.raises(SettingError, match=word):
                find_target(target.name, options)


def test_the_command_takes_them(tmp_path: Path) -> None:
    words = ["export", "demo-vit", "--for", "graphs", "--float16", "--tower", "text", "--no-check"]
    shown = CliRunner().invoke(cli.app, [*words, "-o", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert {path.name for path in (tmp_path / "out").glob("*.onnx")} == {"text.onnx"}
    both = CliRunner().invoke(cli.app, [*words, "--float32", "-o", str(tmp_path / "out")])
    assert both.exit_code == 2
